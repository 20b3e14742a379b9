"""A function over items in processes: results in order, a bounded number of items in memory; without processes, too."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int, str], None]  # is told how many items are done, of how many, and what is being done

_AHEAD = 8  # items that each process has before it, so that none waits while this one is busy


class Workers:
    """Processes that work on items. Where they cannot be started, or one of them dies, the rest is done here.

    Args:
        count: how many; with 1 all is done here.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = _start_pool(count) if count > 1 else None

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`function` of each item, in order; items are taken as they are needed. Its exceptions are raised here.

        Args:
            function: a module's function; its argument and result are pickled. Called again for an item whose process
                died.
        """
        left = iter(items)
        waiting: deque[tuple[T, Future[R] | None]] = deque()
        while True:
            waiting.extend((item, self._submit(function, item)) for item in islice(left, self._room(len(waiting))))
            if not waiting:
                return
            yield self._result(function, *waiting.popleft())

    def _room(self, waiting: int) -> int:
        ahead = _AHEAD * self._count if self._pool is not None else 1
        return max(0, ahead - waiting)

    def _submit(self, function: Callable[[T], R], item: T) -> "Future[R] | None":
        if self._pool is None:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside a thread: see _start_pool
                return self._pool.submit(function, item)
        except (OSError, BrokenProcessPool):  # a process of it died or could not be started
            self._close()
            return None

    def _result(self, function: Callable[[T], R], item: T, future: "Future[R] | None") -> R:
        if future is not None:
            try:
                return future.result()
            except (BrokenProcessPool, CancelledError):
                self._close()
        return function(item)

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def _start_pool(workers: int) -> ProcessPoolExecutor | None:
    # A forked worker starts at once. What it runs (numpy, Pillow, pyarrow, SQLite files that it opens itself) is
    # ready for that.
    method = "fork" if sys.platform == "linux" else "spawn"
    try:
        context = multiprocessing.get_context(method)
        return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),))
    except (OSError, ImportError, ValueError):  # no semaphores on this machine, or no leave to start processes
        return None


def _start_worker(parent: int) -> None:
    """Workers leave signals to the parent, and end with it: killed, it could not tell them."""
    gc.freeze()  # what the parent has made is shared, and looking through it for garbage would copy it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
