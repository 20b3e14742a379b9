"""What the user sees of a run while it runs: bars on a terminal, plain lines anywhere else."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1 import stages

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Board:
    """Hears of every step that begins and ends. This one prints a line for each end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._guard = threading.Lock()

    def begin(self, name: str) -> None:
        """A step starts to run."""

    def end(self, name: str, outcome: str, seconds: float, note: str = "") -> None:
        """A step is over.

        Args:
            name: the step.
            outcome: ran, restored, cached, failed, interrupted or not run.
            seconds: how long it took.
            note: the reason of a failure, or the MLflow run.
        """
        took = f"{seconds:7.1f} s" if outcome in ("ran", "restored", "failed", "interrupted") else " " * 9
        with self._guard:
            self._print(f"{name:26} {outcome:11} {took}  {note}".rstrip())

    def say(self, line: str) -> None:
        """A line that belongs to no step."""
        with self._guard:
            self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class LiveBoard(Board):
    """Bars with the time left for the steps that run, below the lines of those that ended."""

    def __init__(self, root: Path, progress: "Progress") -> None:
        super().__init__(root)
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._over = threading.Event()

    def begin(self, name: str) -> None:
        with self._guard:
            self._bars[name] = self._progress.add_task(name, total=None, what="starting")

    def end(self, name: str, outcome: str, seconds: float, note: str = "") -> None:
        with self._guard:
            bar = self._bars.pop(name, None)
            if bar is not None:
                self._progress.remove_task(bar)
        super().end(name, outcome, seconds, note)

    def watch(self) -> None:
        """Move the bars by the status files, until `close`."""
        started = time.time()
        while not self._over.wait(0.25):
            with self._guard:
                bars = dict(self._bars)
            for name, bar in bars.items():
                status = stages.read_status(name, self.root) or {}
                progress = status.get("progress") or {}
                if status.get("started_at", 0) >= started and progress.get("total"):
                    self._update(bar, progress)

    def close(self) -> None:
        """Stop watching."""
        self._over.set()

    def _update(self, bar: "TaskID", progress: dict[str, Any]) -> None:
        with suppress(KeyError):  # the step ended a moment ago
            done, total, what = progress["done"], progress["total"], progress["what"]
            self._progress.update(bar, completed=done, total=total, what=what)

    def _print(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False)


@contextmanager
def shown(root: Path) -> Iterator[Board]:
    """A board for this terminal, or for a log where standard error is none."""
    if not sys.stderr.isatty():
        yield Board(root)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:26}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        board = LiveBoard(root, progress)
        watcher = threading.Thread(target=board.watch, daemon=True)
        watcher.start()
        try:
            yield board
        finally:
            board.close()
            watcher.join()
