"""The table at the end of a run: accuracy per model and task, beside the base."""

import json
from pathlib import Path
from typing import Any

from othink_mr1 import stages
from othink_mr1.names import MODELS, TASKS


def rows(root: Path) -> list[dict[str, Any]]:
    """A dict a model and task: model, task, n, accuracy, ci95 and over_base, the difference to the base."""
    found = {model: _metrics(root, model) for model in MODELS}
    return [
        {
            "model": model,
            "task": task,
            "n": found[model][task]["n"],
            "accuracy": found[model][task]["strict"]["accuracy"],
            "ci95": found[model][task]["strict"]["ci95"],
            "over_base": _difference(found, model, task),
        }
        for model in MODELS
        for task in TASKS
        if task in found[model]
    ]


def report_path(root: Path) -> Path:
    """Where the HTML report lies."""
    return root / stages.WORK / "report" / "index.html"


def show(root: Path, outcomes: dict[str, dict[str, Any]], seconds: float) -> None:
    """Print the table, what promotion decided, the report's path and the time it took."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 100)
    table = Table(title="Accuracy on the test sets (greedy, strict), 95% interval, points over the base")
    table.add_column("model")
    for task in TASKS:
        table.add_column(task)
    cells = {(row["model"], row["task"]): _cell(row) for row in rows(root)}
    for model in MODELS:
        if any((model, task) in cells for task in TASKS):
            table.add_row(model, *(cells.get((model, task), "") for task in TASKS))
    if table.row_count:
        console.print(table)
    for name, entry in outcomes.items():
        if name.startswith("promote@") and entry["note"]:
            console.print(f"{name.removeprefix('promote@')}: {entry['note']}", highlight=False, soft_wrap=True)
    cached = sum(entry["outcome"] == "cached" for entry in outcomes.values())
    ran = sum(entry["outcome"] == "ran" for entry in outcomes.values())
    restored = sum(entry["outcome"] == "restored" for entry in outcomes.values())
    if report_path(root).exists():
        console.print(f"report: {report_path(root)}", highlight=False, soft_wrap=True)
    also = f", {restored} restored" if restored else ""
    console.print(f"{ran} stages ran, {cached} cached{also}; {_duration(seconds)}", highlight=False)


def _metrics(root: Path, model: str) -> dict[str, Any]:
    try:
        return dict(json.loads((root / "evaluation" / model / "metrics.json").read_text())["tasks"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _difference(found: dict[str, dict[str, Any]], model: str, task: str) -> float | None:
    if model == "base" or task not in found["base"]:
        return None
    return float(found[model][task]["strict"]["accuracy"] - found["base"][task]["strict"]["accuracy"])


def _cell(row: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in row["ci95"])
    text = f"{100 * row['accuracy']:5.1f}%  ({low:.1f} to {high:.1f})"
    return text if row["over_base"] is None else f"{text}  {100 * row['over_base']:+.1f}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"
