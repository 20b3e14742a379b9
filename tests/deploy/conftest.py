"""A Prefect server and its workers, on loopback, in folders of their own, ended by process id."""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PATIENCE = 120  # seconds that a start may take on a busy machine


@dataclass(frozen=True)
class Server:
    """A running Prefect server: what a client's environment needs to reach it, and where its logs go."""

    environment: dict[str, str]
    folder: Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def background(
    command: list[str], environment: dict[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `command` in a process group of its own, and ends that group, whatever happens."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                try:
                    process.wait(timeout=15)
                    break
                except subprocess.TimeoutExpired:
                    continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server that asks for a password, as docker/compose.yaml starts it, but on SQLite."""
    folder = tmp_path_factory.mktemp("prefect")
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {
        **clean,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_AUTH_STRING": "tester:only-for-this-test",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server_environment = {**environment, "PREFECT_SERVER_API_AUTH_STRING": environment["PREFECT_API_AUTH_STRING"]}
    log = folder / "server.log"
    with background(command, server_environment, folder, log) as process:
        deadline = time.monotonic() + PATIENCE
        while not answers(f"{environment['PREFECT_API_URL']}/health"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        yield Server(environment, folder)


def run_deploy(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Registers the project in `folder` as its README says."""
    return subprocess.run(
        [sys.executable, "-m", "flows.deploy"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def api(server: Server, path: str, body: Any = None) -> Any:
    """Asks the server: POST with a body, GET without; gives back what it answers."""
    credentials = base64.b64encode(server.environment["PREFECT_API_AUTH_STRING"].encode()).decode()
    request = urllib.request.Request(
        server.environment["PREFECT_API_URL"] + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            # SQLite was busy: Prefect's own client tries again, too.
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project as a clone would have it, in a git repository of its own."""
    folder = tmp_path_factory.mktemp("checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")) and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "copy"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def deployed(prefect_server: Server, project: Path) -> Server:
    """The server with the deployments of prefect.yaml, and the work pools."""
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("\npools: {}", "\npools: {evaluate: a100}"))
    result = run_deploy(project, prefect_server.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line.split("--pool ")[1].split()[0] for line in result.stdout.splitlines()] == ["a100", "default", "gpu"]
    return prefect_server
