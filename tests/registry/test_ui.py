"""`othink ui`: both servers, their addresses, and nothing left behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from othink_mr1 import tracking

REPOSITORY = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def folder(root: Path) -> Path:
    for file in ("params.yaml", "dvc.yaml", "steps/resolve.py"):
        (root / file).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / file, root / file)
    return root


def start(folder: Path, *options: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    own = {"PYTHONPATH": str(REPOSITORY), "PREFECT_HOME": str(folder / ".othink" / "prefect")}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "ui", *options],
        cwd=folder,
        env=inherited | own | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_ready(process: "subprocess.Popen[str]") -> list[str]:
    """The lines that the command prints until both servers answer."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if "Ctrl-C" in line:
            return lines
    raise AssertionError(process.communicate()[1])


@pytest.fixture
def busy() -> Iterator[int]:
    """A port that something else listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


@pytest.mark.slow
def test_both_servers_answer_and_nothing_is_left_when_they_are_ended(folder: Path) -> None:
    mlflow, prefect = free_port(), free_port()
    process = start(folder, "--mlflow-port", str(mlflow), "--prefect-port", str(prefect))
    lines = until_ready(process)
    assert f"mlflow   http://127.0.0.1:{mlflow}" in lines
    assert f"prefect  http://127.0.0.1:{prefect}" in lines
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    assert b"MLflow" in opener.open(f"http://127.0.0.1:{mlflow}/").read()
    assert opener.open(f"http://127.0.0.1:{prefect}/api/health").read() == b"true"
    assert tracking.ui_address(folder) == f"http://127.0.0.1:{mlflow}"
    second = start(folder, "--mlflow-port", str(free_port()))
    assert "already runs for this project" in second.communicate(timeout=60)[1]
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert tracking.ui_address(folder) is None


def test_a_port_in_use_is_named_with_the_option_that_changes_it(folder: Path, busy: int) -> None:
    process = start(folder, "--mlflow-port", str(busy), "--prefect-port", str(free_port()))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip() == (
        f"othink: port {busy} for MLflow cannot be used (Address already in use); choose another with --mlflow-port"
    )


def test_a_server_that_dies_ends_the_command_and_a_users_own_prefect_is_left_alone(folder: Path) -> None:
    environment = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    process = start(folder, "--mlflow-port", str(free_port()), environment=environment)
    lines = until_ready(process)
    assert "prefect  http://127.0.0.1:9" in lines
    children = psutil.Process(process.pid).children(recursive=True)
    assert not [child for child in children if "prefect" in " ".join(child.cmdline())]
    children[0].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "MLflow ended by itself" in errors
    assert not psutil.wait_procs(children, timeout=10)[1]
