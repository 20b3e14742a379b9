"""An ordered map over processes that keeps a bounded number of items in memory, and works without processes too."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from othink_mr1.machine import cores

T = TypeVar("T")
R = TypeVar("R")

_CHUNK = 16
_LEAST_ITEMS = 200  # fewer are done before a pool has started


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], *, expected: int, workers: int | None = None
) -> Iterator[R]:
    """`function` of each item, in order.

    With `expected` items enough and more than one core it runs in processes; where they cannot be started, or one of
    them dies, the rest is done here, with the same result. An exception of `function` is raised here.

    Args:
        function: a module's function; its argument and result are pickled.
        expected: about how many items there are; a hint.
        workers: processes; as many as there are cores if not given.
    """
    workers = cores() if workers is None else workers
    items = iter(items)
    if workers > 1 and expected >= _LEAST_ITEMS:
        yield from _with_pool(function, items, workers)
    yield from map(function, items)  # everything, or what a pool has left over


def _with_pool(function: Callable[[T], R], items: Iterator[T], workers: int) -> Iterator[R]:
    pool = _start_pool(workers)
    if pool is None:
        return
    waiting: deque[tuple[list[T], Future[list[R]] | None]] = deque()
    try:
        while True:
            while len(waiting) < 3 * workers and (chunk := list(islice(items, _CHUNK))):
                waiting.append((chunk, _submit(pool, function, chunk)))
            if not waiting:
                return
            yield from _result(function, *waiting.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_pool(workers: int) -> ProcessPoolExecutor | None:
    # A forked worker starts at once. It runs numpy and Pillow alone, which keep no threads or locks.
    method = "fork" if sys.platform == "linux" else "spawn"
    try:
        context = multiprocessing.get_context(method)
        return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),))
    except (OSError, ImportError, ValueError):  # no semaphores on this machine, or no leave to start processes
        return None


def _submit(pool: ProcessPoolExecutor, function: Callable[[T], R], chunk: list[T]) -> "Future[list[R]] | None":
    """None where the pool takes no more work, because a process of it died or could not be started."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside a thread: see _start_pool
            return pool.submit(_map_chunk, function, chunk)
    except (OSError, BrokenProcessPool):
        return None


def _result(function: Callable[[T], R], chunk: list[T], future: "Future[list[R]] | None") -> list[R]:
    if future is not None:
        try:
            return future.result()
        except BrokenProcessPool:
            pass
    return _map_chunk(function, chunk)


def _map_chunk(function: Callable[[T], R], chunk: list[T]) -> list[R]:
    return [function(item) for item in chunk]


def _start_worker(parent: int) -> None:
    """Workers leave signals to the parent, and end with it: killed, it could not tell them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
