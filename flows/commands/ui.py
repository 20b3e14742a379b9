"""`othink ui`: the MLflow and Prefect servers of this project on loopback, until Ctrl-C or SIGTERM."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from flows.commands.registered import connected
from flows.project import prepare_prefect
from othink_mr1 import processes, stages, tracking
from othink_mr1.errors import UserError
from othink_mr1.tracking.connection import FOLDER, UI_FILE, hide_password, prepare_environment

HOST = "127.0.0.1"
# Seconds. A new database of either server needs its migrations; a loaded machine needs longer.
PATIENCE = 180.0
_GRACE = 10.0


@dataclass
class Server:
    """One server: how it is started, and where it answers."""

    name: str
    port: int
    option: str
    command: list[str]
    environment: dict[str, str]
    health: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What a browser opens."""
        return f"http://{HOST}:{self.port}"


class _Stop(BaseException):
    """Ctrl-C or SIGTERM."""


def ui(mlflow_port: int, prefect_port: int) -> None:
    """Start both servers, print their addresses and wait.

    A service for which the user configured a server of their own is not started; its address is printed.

    Raises:
        UserError: a port is in use, the servers of this project run already, or one of them ended by itself.
    """
    root, _ = connected()
    running = tracking.ui_address(root)
    if running:
        raise UserError(f"`othink ui` already runs for this project, with MLflow at {running}")
    addresses, servers = _plan(root, mlflow_port, prefect_port)
    _check_ports(servers)
    if not servers:  # the user has both elsewhere
        _print(addresses)
        return
    with _stoppable():
        try:
            print("starting: " + ", ".join(server.name for server in servers) + " ...", flush=True)
            if tracking.store(root).local:
                # The database and the experiment exist before a server and a run want to make them at once.
                tracking.store(root).require(lambda _: None)
            for server in servers:
                _start(server)
            for server in servers:
                _wait_until_it_answers(server)
            _note(root, addresses)
            _print(addresses)
            print(f"runs     {tracking.page(root, f'experiments/{tracking.store(root).experiment_id}')}")
            print("Ctrl-C ends them", flush=True)
            _wait_until_one_ends(servers)
        except _Stop:
            print("ending", flush=True)
        finally:
            (root / UI_FILE).unlink(missing_ok=True)
            for server in servers:
                _end(server)


def _plan(root: Path, mlflow_port: int, prefect_port: int) -> tuple[dict[str, str], list[Server]]:
    """The address of each service, and the servers to start for them."""
    addresses, servers = {}, []
    store = tracking.store(root)
    if store.local:
        servers.append(_mlflow(root, store.uri, mlflow_port))
        addresses["mlflow"] = servers[-1].address
    else:
        addresses["mlflow"] = hide_password(store.uri)
    prepare_prefect(root)
    own = os.environ.get("PREFECT_API_URL")
    if own:
        addresses["prefect"] = own.removesuffix("/").removesuffix("/api")
    else:
        servers.append(_prefect(root, prefect_port))
        addresses["prefect"] = servers[-1].address
    return addresses, servers


def _mlflow(root: Path, uri: str, port: int) -> Server:
    prepare_environment()
    artifacts = (root / FOLDER / "artifacts").as_uri()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--default-artifact-root", artifacts, "--host", HOST, "--port", str(port), "--workers", "1"]
    # Its job queue (nine processes) is for evaluating language models, which this project does not do there.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # The server must not take itself for a client of another one.
    environment.pop("MLFLOW_TRACKING_URI", None)
    log = root / stages.WORK / "logs" / "ui-mlflow.log"
    return Server("MLflow", port, "--mlflow-port", command, environment, f"http://{HOST}:{port}/health", log)


def _prefect(root: Path, port: int) -> Server:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port), "--no-prompt"]
    environment = {**os.environ, "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api"}
    log = root / stages.WORK / "logs" / "ui-prefect.log"
    return Server("Prefect", port, "--prefect-port", command, environment, f"http://{HOST}:{port}/api/health", log)


def _print(addresses: dict[str, str]) -> None:
    for name, address in addresses.items():
        print(f"{name:8} {address}")


def _check_ports(servers: list[Server]) -> None:
    if len({server.port for server in servers}) < len(servers):
        raise UserError(f"--mlflow-port and --prefect-port: both are {servers[0].port}; choose two different ports")
    for server in servers:
        if not 1 <= server.port <= 65535:
            raise UserError(f"{server.option}: {server.port} is not a port; choose one from 1024 to 65535")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, server.port))
            except OSError as error:
                raise UserError(
                    f"port {server.port} for {server.name} cannot be used ({error.strerror}); "
                    f"choose another with {server.option}"
                ) from None


def _start(server: Server) -> None:
    server.log.parent.mkdir(parents=True, exist_ok=True)
    with server.log.open("wb") as log:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the server with all its helpers.
        server.process = subprocess.Popen(
            server.command,
            env=server.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_it_answers(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE
    # A proxy of the environment is not asked: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        _check_alive(server)
        with contextlib.suppress(OSError):
            opener.open(server.health, timeout=5).close()
            return
        time.sleep(0.3)
    raise UserError(f"{server.name} does not answer at {server.address} after {PATIENCE:.0f} s; see {server.log}")


def _wait_until_one_ends(servers: list[Server]) -> None:
    while True:
        for server in servers:
            _check_alive(server)
        time.sleep(0.5)


def _check_alive(server: Server) -> None:
    assert server.process is not None
    if server.process.poll() is not None:
        raise UserError(f"{server.name} ended by itself (exit code {server.process.returncode}); see {server.log}")


def _end(server: Server) -> None:
    """End a server and its helpers: asked first, then made to."""
    if server.process is None:
        return
    group = server.process.pid
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            server.process.poll()
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)


def _note(root: Path, addresses: dict[str, str]) -> None:
    """Write where the servers are, for the links that other commands print."""
    stages.write_whole(root / UI_FILE, json.dumps({**addresses, "process": str(processes.current())}) + "\n")


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        # A second signal must not interrupt the ending of the servers.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise _Stop

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
