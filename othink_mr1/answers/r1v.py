"""What R1-V's test scripts count as right.

Geometry is judged by math_verify in worker processes (`worker`), because it evaluates text and cannot be
interrupted: a worker that passes its deadline is killed and the item counts as wrong. The workers start at the first
item, serve any thread, and end with the program.
"""

import atexit
import contextlib
import importlib.util
import json
import os
import re
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path

from othink_mr1.errors import UserError

DEADLINE_SECONDS = 17.0  # above math_verify's own three time-outs of 5 s (parse, parse, verify), which R1-V had
START_SECONDS = 120.0
MAX_WORKERS = 4

_COUNT = re.compile(r"<answer>\s*(\d+)\s*</answer>")


def count_is_correct(completion: str, truth: int) -> bool:
    """test_qwen2vl_counting_superclevr.py: the first `<answer>` of digits alone, equal as integers."""
    match = _COUNT.search(completion)
    if match is None or len(match[1]) > 1000:  # int() refuses thousands of digits; no count has them
        return False
    return int(match[1]) == truth


def geometry_is_correct(completion: str, truth: str, deadline: float = DEADLINE_SECONDS) -> bool:
    """test_qwen2vl_geoqa.py: `verify(parse(whole completion), parse(truth))`; False past `deadline` seconds.

    Raises:
        UserError: the package math-verify is not installed.
    """
    return _pool().judge(completion, truth, deadline)


def require() -> None:
    """Say at once that geometry cannot be judged, before hours of work end in it.

    Raises:
        UserError: the package math-verify is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise UserError("math-verify is not installed, and r1v judges geometry with it: pip install -e '.[math]'")


def close() -> None:
    """End the worker processes; the next geometry item starts new ones."""
    global _POOL
    with _POOL_LOCK:
        pool, _POOL = _POOL, None
    if pool is not None and pool.owner == os.getpid():
        pool.close()


class _Worker:
    """One worker process; used by one thread at a time."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("worker.py")
        # -P: this package's own folder must not shadow what sympy imports
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the program, which closes its workers
        )
        self.unread = b""
        if self._reply(START_SECONDS) is None:
            self.kill()
            raise RuntimeError("the math-verify worker did not start")

    def judge(self, completion: str, truth: str, deadline: float) -> bool | None:
        """The verdict, or None if the process died or passed the deadline (it is dead then)."""
        request = json.dumps({"completion": completion, "truth": truth, "deadline": deadline}) + "\n"
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(request.encode())
            self.process.stdin.flush()
            reply = self._reply(deadline)
        except (OSError, ValueError):
            reply = None
        if reply is None:
            self.kill()
            return None
        return bool(reply["correct"])

    def _reply(self, seconds: float) -> dict[str, bool] | None:
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.unread:
                left = end - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                chunk = os.read(self.process.stdout.fileno(), 65536)
                if not chunk:
                    return None
                self.unread += chunk
        line, self.unread = self.unread.split(b"\n", 1)
        reply: dict[str, bool] = json.loads(line)
        return reply

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # unsent bytes to a dead process
                    stream.close()


class _Pool:
    """Up to MAX_WORKERS workers, started when needed and handed from thread to thread."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.idle: list[_Worker] = []
        self.lock = threading.Lock()
        self.slots = threading.BoundedSemaphore(min(MAX_WORKERS, os.cpu_count() or 1))
        self.closed = False

    def judge(self, completion: str, truth: str, deadline: float) -> bool:
        with self.slots:
            worker = self._take() or _Worker()
            verdict = worker.judge(completion, truth, deadline)
            if verdict is not None:
                self._give_back(worker)
        return bool(verdict)

    def _take(self) -> _Worker | None:
        """An idle worker that still lives."""
        with self.lock:
            while self.idle:
                worker = self.idle.pop()
                if worker.process.poll() is None:
                    return worker
                worker.kill()
        return None

    def _give_back(self, worker: _Worker) -> None:
        with self.lock:
            if not self.closed:
                self.idle.append(worker)
                return
        worker.kill()

    def close(self) -> None:
        with self.lock:
            self.closed = True
            workers, self.idle = self.idle, []
        for worker in workers:
            worker.kill()


_POOL: _Pool | None = None
_POOL_LOCK = threading.Lock()


def _pool() -> _Pool:
    global _POOL
    with _POOL_LOCK:
        if _POOL is None or _POOL.owner != os.getpid():  # a forked child must not share its parent's pipes
            require()
            _POOL = _Pool()
            atexit.register(close)
        return _POOL
