"""Prefect's own server for one run, where the user has none.

Prefect would start one by itself, but only when the flow begins, and would leave it behind if this process were
killed. Started here, as the first thing of a run, it comes up while the plan is made and packages are imported, and
it is noted among the run's children. It ends with this process.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.run_lock import Run
from othink_mr1.errors import UserError

_PATIENCE = 180.0


class Server:
    """A server that may still be coming up."""

    def __init__(self, root: Path, run: Run) -> None:
        self._log = root / ".othink" / "logs" / "prefect-server.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._run = run
        self._address = f"http://127.0.0.1:{_free_port()}/api"
        self._process = self._launch()
        # Prefect reads it when it is imported.
        os.environ["PREFECT_API_URL"] = self._address
        # Exit handlers run in reverse order: Prefect's, which send its last logs and events, come before this one.
        atexit.register(self.stop)

    def wait(self) -> None:
        """Wait until the server answers.

        Raises:
            UserError: it does not come up; the message names its log.
        """
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"Prefect's server does not start; its last words are in {self._log}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the server; it has nothing left to write once the flow has ended."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._run.forget("prefect")

    def _launch(self) -> "subprocess.Popen[bytes]":
        port = self._address.removesuffix("/api").rpartition(":")[2]
        settings = {
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": port,
            "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
            "PREFECT_SERVER_UI_ENABLED": "false",
        }
        with self._log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("serve_prefect.py")), port],
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._run.note("prefect", [process.pid])
        return process

    def _answers(self) -> bool:
        try:
            # Straight to loopback, whatever proxy the environment names.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{self._address}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


def check_configured() -> None:
    """Make sure that the server which the user configured takes calls: a flow that begins without fails in its midst.

    Raises:
        UserError: it does not answer, or it refuses.
    """
    from prefect import get_client

    with get_client(sync_client=True) as client, plainly(str(client.api_url).rstrip("/")):
        client.read_flows(limit=1)


@contextmanager
def plainly(address: str) -> Iterator[None]:
    """Say in one line that a Prefect server does not answer or refuses.

    Raises:
        UserError: it does.
    """
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except PrefectHTTPStatusError as error:
        hint = "; set PREFECT_API_AUTH_STRING" if error.response.status_code == 401 else ""
        raise UserError(f"{address}: refused with {error.response.status_code}{hint}") from None
    except httpx.TransportError as error:
        raise UserError(f"PREFECT_API_URL: {address} does not answer ({type(error).__name__})") from None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
