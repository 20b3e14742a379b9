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
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int, str], None]  # is told how many items are done, of how many, and what is being done

_AHEAD = 8  # items that each process has before it, so that none waits while this one is busy
_PATIENCE = 2.0  # seconds that what is being done has to end in, where nobody wants it any more
_ends: list[Connection] = []  # in a worker: where it is told to end


class Workers:
    """Processes that work on items. Where they cannot be started, all is done here.

    If one of them dies, fresh ones take over, once; after that the rest is done here. Both are told on stderr. On
    leaving, items that wait are dropped, and those in work have `_PATIENCE` seconds: after it no process is left.

    Args:
        count: how many; with 1 all is done here.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = _start_pool(count) if count > 1 else None
        self._replaced = False

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`function` of each item, in order; items are taken as they are needed. Its exceptions are raised here.

        Args:
            function: a module's function; its argument and result are pickled. Called again for an item whose process
                died.
        """
        left = iter(items)
        waiting: deque[_Task] = deque()
        while True:
            waiting.extend(self._submit(function, item) for item in islice(left, self._room(len(waiting))))
            if not waiting:
                return
            task = waiting.popleft()
            if task.future is None:
                yield function(task.item)
                continue
            try:
                result: R = task.future.result()
            except (BrokenProcessPool, CancelledError):
                self._replace(task.pool, "died")
                # What was done stays so; the others, of which nobody knows how far they came, are begun again.
                waiting.appendleft(task)
                waiting = deque(self._submit(function, one.item) if _is_lost(one) else one for one in waiting)
                continue
            yield result

    def _room(self, waiting: int) -> int:
        ahead = _AHEAD * self._count if self._pool is not None else 1
        return max(0, ahead - waiting)

    def _submit(self, function: Callable[[T], R], item: T) -> "_Task":
        while self._pool is not None:
            pool = self._pool
            try:
                return _Task(item, pool.submit(function, item), pool)
            except BrokenProcessPool:
                self._replace(pool, "died")
            except OSError as error:
                self._replace(pool, f"could not be started ({error.strerror or error})")
        return _Task(item, None, None)

    def _replace(self, broken: "_Pool | None", what: str) -> None:
        """Fresh processes in the place of those of a pool that broke; the second time, none."""
        if self._pool is None or self._pool is not broken:  # it was done already
            return
        self._close()
        if not self._replaced:
            self._replaced = True
            self._pool = _start_pool(self._count)
        then = "the rest is done by one process alone" if self._pool is None else "fresh ones go on"
        print(f"warning: a worker process {what}, perhaps for want of memory; {then}", file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.end()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


class _Pool:
    """An executor whose processes can be told to end.

    Raises:
        OSError, ImportError, ValueError: no semaphores on this machine, or no leave to start processes.
    """

    def __init__(self, count: int) -> None:
        # A forked worker starts at once. What it runs (numpy, Pillow, pyarrow, SQLite files that it opens itself) is
        # ready for that.
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        # A pipe, which all of them look at and none reads: a lock could be held by one that died.
        self._told, self._tell = context.Pipe(duplex=False)
        arguments = (os.getpid(), self._told)
        self._executor = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=arguments)

    def submit(self, function: Callable[[T], R], item: T) -> "Future[R]":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside a thread: see above
            return self._executor.submit(_begin, function, item)

    def end(self) -> None:
        """Begins nothing more, and waits until no process is left, for `_PATIENCE` seconds and a little."""
        self._tell.send_bytes(b"end")
        self._executor.shutdown(cancel_futures=True)


class _Task(NamedTuple):
    """An item, and what will be its result; None where it is to be done here."""

    item: Any
    future: "Future[Any] | None"
    pool: _Pool | None


def _is_lost(task: _Task) -> bool:
    """Its pool broke before it was done."""
    future = task.future
    if future is None or not future.done():
        return False
    return future.cancelled() or isinstance(future.exception(), (BrokenProcessPool, CancelledError))


def _start_pool(count: int) -> _Pool | None:
    try:
        return _Pool(count)
    except (OSError, ImportError, ValueError):
        return None


def _start_worker(parent: int, told: Connection) -> None:
    """Workers leave signals to the parent, and end with it: killed, it could not tell them."""
    gc.freeze()  # what the parent has made is shared, and looking through it for garbage would copy it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _ends.append(told)
    threading.Thread(target=_end_with, args=(parent, told), daemon=True).start()


def _begin(function: Callable[[T], R], item: T) -> R:
    """`function` of the item, unless the executor had handed it out already when all was to end."""
    if _ends[-1].poll():
        raise CancelledError
    return function(item)


def _end_with(parent: int, told: Connection) -> None:
    while os.getppid() == parent:
        if told.poll(0.5):
            time.sleep(_PATIENCE)
            break
    os._exit(1)
