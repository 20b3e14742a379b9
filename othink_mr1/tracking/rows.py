"""Reads what a step writes for MLflow: the lines of its log.jsonl while they appear, and the scores of a model."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")


@dataclass(frozen=True)
class Point:
    """One value of one metric; `time` in Unix seconds, None where the line does not say."""

    name: str
    value: float
    step: int
    time: float | None


class LogTail:
    """Follows a log.jsonl that another process writes, one JSON object a line with `step` and numbers.

    A line counts once it is whole. A step that resumes writes its file anew from its checkpoint on, and the same
    lines come again: each pair of step and name is given out once in the life of this object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._last_line = b""
        self._seen: set[tuple[int, str]] = set()

    def read(self, ended: bool = False) -> list[Point]:
        """The points that were not given out before. With `ended`, a last line without a newline counts too."""
        try:
            lines = self._new_lines(ended)
        except OSError:
            return []  # not written yet, or just now replaced
        return [point for line in lines for point in _points(line) if self._first_time(point)]

    def _new_lines(self, ended: bool) -> list[bytes]:
        with self.path.open("rb") as file:
            if not self._continues(file):
                self._offset = 0
            file.seek(self._offset)
            new = file.read()
        whole = new if ended else new[: new.rfind(b"\n") + 1]
        if whole:
            self._offset += len(whole)
            self._last_line = whole.splitlines(keepends=True)[-1]
        return whole.splitlines()

    def _continues(self, file: Any) -> bool:
        """Whether what was read last still stands where it stood; if not, the file is another one."""
        file.seek(max(0, self._offset - len(self._last_line)))
        return bool(file.read(len(self._last_line)) == self._last_line)

    def _first_time(self, point: Point) -> bool:
        key = (point.step, point.name)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


def scores(metrics: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The numbers of an evaluation's metrics.json: task -> {"strict/accuracy": 0.6, ...}, intervals left out."""
    return {task: _numbers(of_task) for task, of_task in metrics.get("tasks", {}).items()}


def row_counts(provenance: dict[str, Any]) -> dict[str, float]:
    """Of a data/<task>/provenance.json: `train/rows`, `train/read`, `train/quarantined` and so on."""
    counts: dict[str, float] = {}
    for split, told in provenance.get("splits", {}).items():
        counts |= {f"{split}/{key}": float(told[key]) for key in ("read", "rows") if _is_number(told.get(key))}
        counts[f"{split}/quarantined"] = float(sum(told.get("quarantined", {}).values()))
    return counts


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by their dotted path; a list is a leaf."""
    if not isinstance(tree, dict):
        return {prefix: tree} if prefix else {}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def metric_name(name: str) -> str:
    """The name with what MLflow does not allow in one replaced."""
    return _NOT_IN_NAMES.sub("_", name)


def _points(line: bytes) -> list[Point]:
    try:
        row = json.loads(line)
        step = int(row.pop("step"))
        time = row.pop("time", None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return []  # half a line that a kill left behind; the step writes it again when it resumes
    moment = float(time) if _is_number(time) else None
    return [Point(metric_name(name), float(value), step, moment) for name, value in row.items() if _is_number(value)]


def _numbers(tree: dict[str, Any]) -> dict[str, float]:
    return {key.replace(".", "/"): float(value) for key, value in flat(tree).items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
