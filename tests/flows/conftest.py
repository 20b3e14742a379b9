"""A copy of the project whose steps take no time: real DVC, real Prefect, real MLflow around them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
REPO = HERE.parent.parent
KINDS = ("prepare_data", "base_model", "train", "evaluate", "tables")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with this project's graph and configuration, and steps that only write files."""
    for name in ("OTHINK_OWNER", "OTHINK_PARAMS", "PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTHINK_GRACE", "10")
    return make_project(tmp_path / "project")


def make_project(folder: Path) -> Path:
    """Copy what DVC, the flow and the library need; see `project`."""
    ignore = shutil.ignore_patterns("__pycache__", "tmp", "cache")
    for name in ("othink_mr1", "flows", "data_profiles", ".dvc"):
        shutil.copytree(REPO / name, folder / name, ignore=ignore)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(REPO / name, folder / name)
    (folder / "steps").mkdir()
    for name in ("__init__.py", "harness.py", "resolve.py"):
        shutil.copy(REPO / "steps" / name, folder / "steps" / name)
    for kind in KINDS:
        shutil.copy(HERE / "tiny_step.py", folder / "steps" / f"{kind}.py")
    shutil.copy(HERE / "tiny_acts.py", folder / "flows" / "acts.py")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


def set_knobs(project: Path, **knobs: dict[str, Any]) -> None:
    """Make stages slow or failing; see tiny_step.py."""
    (project / "knobs.json").write_text(json.dumps(knobs))


def othink(project: Path, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the othink command in the project."""
    return subprocess.run(
        othink_command(*arguments),
        cwd=folder or project,
        env=othink_environment(project),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def othink_command(*arguments: str) -> list[str]:
    """The command line of othink with the project's own copy of the code."""
    return [sys.executable, "-m", "flows.cli", *arguments]


def othink_environment(project: Path) -> dict[str, str]:
    """An environment in which Python finds the project's copy before the installed one, wherever it is started."""
    return {**os.environ, "PYTHONPATH": str(project), "HOME": str(project.parent / "home")}
