"""What is noted and timed between two logs of a training."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from othink_mr1.training import together


class Meter:
    """Keeps the metrics of micro-batches, and how long the parts of a step took, until the next log.

    Attributes:
        noted: metrics by name, a value a micro-batch.
    """

    def __init__(self) -> None:
        self.noted: dict[str, list[float]] = defaultdict(list)
        self._seconds: dict[str, float] = defaultdict(float)
        self.begin(0, 0)

    def begin(self, step: int, tokens: int) -> None:
        """Counts time and tokens from here, where `step` steps are done and `tokens` tokens were seen."""
        self._began, self._step, self._tokens = time.perf_counter(), step, tokens

    def note(self, metrics: Mapping[str, float]) -> None:
        """Keeps the finite ones."""
        for name, value in metrics.items():
            if math.isfinite(value):
                self.noted[name].append(float(value))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Counts the time of its block."""
        began = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - began

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """The time of its block is no step's."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def means(self) -> dict[str, float]:
        """Of what was noted, in all processes; every process has to ask."""
        everyone = together.every(dict(self.noted))
        values = {name: [v for noted in everyone for v in noted.get(name, ())] for noted in everyone for name in noted}
        return {name: sum(found) / len(found) for name, found in values.items()}

    def speed(self, step: int, tokens: int) -> dict[str, float]:
        """Seconds a step, tokens a second, and seconds a step of each part of it (`time/<name>`)."""
        elapsed, steps = time.perf_counter() - self._began, max(1, step - self._step)
        found = {"step_time": elapsed / steps, "tokens_per_second": (tokens - self._tokens) / elapsed}
        return found | {f"time/{name}": seconds / steps for name, seconds in self._seconds.items()}

    def clear(self, step: int, tokens: int) -> None:
        """Begins anew, after a log."""
        self.noted.clear()
        self._seconds.clear()
        self.begin(step, tokens)
