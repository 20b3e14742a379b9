"""Two processes that take turns: each trains one step when it is told to, and says what the step cost.

A side is a program of its own, so that its memory and its threads are its own, and while one works the other waits.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from benchmarks.flops import counter

_MB = 1 << 20


def memory_mb(field: str) -> float:
    """`VmRSS` (resident now) or `VmHWM` (the most since `forget_peak`) of this process, in MiB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024 / _MB


def forget_peak() -> None:
    """Lets `VmHWM` begin anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class Turns(TrainerCallback):
    """Holds a trainer at the end of every step until the other side of the pipe asks for one more.

    A step lasts from its being asked for to its end: loading and encoding its data are part of it.
    """

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.phases: dict[str, float] = defaultdict(float)
        self._began = 0.0
        self._counter: FlopCounterMode | None = None  # while a step's operations are counted instead of its seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds what its block costs to the step's phase."""
        began = self._spent()
        try:
            yield
        finally:
            self.phases[name] += self._spent() - began

    def _spent(self) -> float:
        return time.perf_counter() if self._counter is None else self._counter.get_total_flops()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with its time counted as the phase `name`."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return wrapped

    def say(self, **what: Any) -> None:
        print(json.dumps(what), file=self.out, flush=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.say(step=self._spent() - self._began, phases=dict(self.phases), peak_mb=memory_mb("VmHWM"))
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None
        if state.global_step < state.max_steps:
            self._wait()

    def _wait(self) -> None:
        asked = sys.stdin.readline().strip()
        if asked not in ("time", "count"):
            raise SystemExit("the benchmark has ended")
        if asked == "count":
            self._counter = counter()
            self._counter.__enter__()
        self.phases.clear()
        self._began = self._spent()


class Side:
    """One of the two, as its parent sees it."""

    def __init__(self, module: str, threads: int, *arguments: str) -> None:
        self.name = " ".join([module, *arguments])
        # Whatever a library prints goes to the error stream; the pipe holds nothing but answers.
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.facts = self._answer()

    def step(self, what: str = "time") -> dict[str, Any]:
        """Trains one step and gives `{"step", "phases", "peak_mb"}`.

        Args:
            what: "time": seconds; "count": floating-point operations, which take longer to count than to do.
        """
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: it ended early; see above")
        return json.loads(line)


def own_output() -> TextIO:
    """This process's standard output for answers alone; whatever else is printed goes to the error stream."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out
