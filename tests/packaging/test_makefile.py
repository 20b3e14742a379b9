"""make needs git and Python 3.11 only, installs once, and takes no half install for a whole one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Builds the smallest package there is, so that the recipe can run where nothing can be downloaded.
BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name, info = "tiny-1-py3-none-any.whl", "tiny-1.dist-info/"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("make") or "make", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_NO_INDEX": "1", "MAKEFLAGS": "", **environment},
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the real Makefile and nothing to download."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").write_text("# nothing\n")
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (tmp_path / "backend.py").write_text(BACKEND)
    return tmp_path


def test_help_is_the_default_and_lists_every_target() -> None:
    listed = make(ROOT).stdout
    for target in ("demo", "test", "lint", "ui", "help"):
        assert f"make {target} " in listed
    assert make(ROOT, "help").stdout == listed


@pytest.mark.slow
def test_it_installs_once_and_again_only_when_the_lock_changes(project: Path) -> None:
    first = make(project, "install", f"PYTHON={sys.executable}")
    assert first.returncode == 0, first.stderr
    assert "Installing" in first.stdout
    assert "Installing" not in make(project, "install").stdout

    stamp = project / ".venv" / ".installed"
    os.utime(stamp, (0, 0))
    assert "Installing" in make(project, "install").stdout
    assert "Installing" not in make(project, "install").stdout


@pytest.mark.slow
def test_an_install_that_was_cut_short_is_started_anew(project: Path) -> None:
    (project / "requirements.lock").write_text("no-such-package==1\n")
    failed = make(project, "install", f"PYTHON={sys.executable}")
    assert failed.returncode != 0
    assert "no-such-package" in failed.stderr
    assert not (project / ".venv" / ".installed").exists()

    (project / ".venv" / "half.py").touch()
    (project / "requirements.lock").write_text("# nothing\n")
    again = make(project, "install", f"PYTHON={sys.executable}")
    assert again.returncode == 0, again.stderr
    assert "cut short" in again.stdout
    assert not (project / ".venv" / "half.py").exists()


def test_an_old_python_is_one_clear_line(project: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")  # the answer of an old one to "are you 3.11?"
    old.chmod(0o755)
    result = make(project, "install", f"PYTHON={old}")
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if "Error " not in line]
    assert len(lines) == 1
    assert "no Python 3.11 or later" in lines[0]
    assert not (project / ".venv").exists()


def test_a_missing_git_is_one_clear_line(project: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "sed", "awk", "grep", "mkdir", "touch", "rm"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    result = make(project, "install", PATH=str(tools))
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if "Error " not in line]
    assert lines == ["make: git is not installed; install it (apt install git) and try again"]
