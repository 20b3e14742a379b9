""".ci/run does lint, demo and tests in this order, stops at the first failure, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Stands in for make: notes what it was asked for and does what the test wants.
MAKE = """#!/bin/sh
echo "$1" >> "$NOTES"
if [ "$1" = "$FAILS" ]; then exit 3; fi
if [ "$1" = "$HANGS" ]; then sleep 300 & echo $! > "$NOTES.pid"; wait; fi
if [ "$1" = test ]; then echo "1 passed in 0.01s"; fi
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"make": MAKE, "chromium": "#!/bin/sh\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    return tmp_path


def start(project: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(project / ".ci" / "run")],
        env={
            **os.environ,
            "PATH": f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "NOTES": str(project / "notes"),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def asked_for(project: Path) -> list[str]:
    return (project / "notes").read_text().split()


def test_the_tests_come_last_and_their_closing_line_is_the_last(project: Path) -> None:
    process = start(project)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert asked_for(project) == ["lint", "demo", "test"]
    assert output.splitlines()[-1] == "1 passed in 0.01s"


@pytest.mark.parametrize(("fails", "reached"), [("lint", 1), ("demo", 2), ("test", 3)])
def test_the_first_failure_is_the_end(project: Path, fails: str, reached: int) -> None:
    process = start(project, FAILS=fails)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert len(asked_for(project)) == reached


def test_what_it_started_ends_with_it(project: Path) -> None:
    process = start(project, HANGS="demo")
    noted = project / "notes.pid"
    deadline = time.monotonic() + 60
    while not (noted.exists() and noted.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = psutil.Process(int(noted.read_text()))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
