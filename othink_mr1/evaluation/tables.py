"""The paper's tables out of the models' evaluations: Table 1 (same-task), Figure 7 (cross-task), and the tests.

`results` makes one plain dict; results.json, the CSV and Markdown files, the figures and the report all show it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from othink_mr1.answers import PROTOCOLS
from othink_mr1.evaluation import paper
from othink_mr1.evaluation.by_answer import by_answer
from othink_mr1.evaluation.predictions import read_metrics, right_items
from othink_mr1.evaluation.statistics import Comparison, compare, settle, wilson_interval
from othink_mr1.names import METHODS, MODELS, TASKS

NAMES = {"base": "Base", "sft": "SFT", "grpo": "GRPO", "grpo_d": "GRPO-D"}
KINDS = ("same-task", "cross-task")
# Each trained model against the base, and GRPO-D against the two others: one family for Holm's correction.
PAIRS = (*((method, "base") for method in METHODS), ("grpo_d", "sft"), ("grpo_d", "grpo"))


def results(
    folder: Path, confidence: float = 0.95, paper_size: str | None = None, improvable_base: bool = False
) -> dict[str, Any]:
    """Everything that the evaluations show.

    Args:
        folder: holds one folder a model, as `steps.evaluate` writes them.
        confidence: of the intervals and tests.
        paper_size: "2b" or "7b" puts the paper's accuracies beside ours.
        improvable_base: the base was trained here so that there is something to improve (the demo's).

    Raises:
        UserError: a model's files are missing or broken.
    """
    metrics = {model: read_metrics(folder / model)["tasks"] for model in MODELS}
    right = {model: right_items(folder / model / "predictions.parquet") for model in MODELS}
    comparisons = {kind: _comparisons(kind, right, confidence) for kind in KINDS}
    return {
        "confidence": confidence,
        "paper": paper_size,
        "improvable_base": improvable_base,
        "same_task": _rows("same-task", metrics, confidence, paper_size),
        "cross_task": _rows("cross-task", metrics, confidence, paper_size),
        "by_answer": {
            task: by_answer(folder, task, {m: model_for(m, task, "same-task") for m in ("base", *METHODS)})
            for task in TASKS
        },
        "comparisons": {kind: [c.as_dict() for c in found] for kind, found in comparisons.items()},
    }


def model_for(method: str, task: str, kind: str) -> str:
    """The model that answers `task` in the same-task or cross-task table."""
    if method == "base":
        return "base"
    trained_on = task if kind == "same-task" else next(other for other in TASKS if other != task)
    return f"{method}-{trained_on}"


def _rows(
    kind: str, metrics: Mapping[str, Mapping[str, Any]], confidence: float, paper_size: str | None
) -> list[dict[str, Any]]:
    published = (paper.SAME_TASK if kind == "same-task" else paper.CROSS_TASK).get(paper_size or "", {})
    rows = []
    for task in TASKS:
        base = metrics["base"][task]
        if "direct" in base:
            rows.append(_row("base", "base", task, "direct", base["direct"], base, confidence, None))
        for method in ("base", *METHODS):
            model = model_for(method, task, kind)
            theirs = published.get(task, {}).get(method)
            rows.append(_row(model, method, task, "reasoning", metrics[model][task], base, confidence, theirs))
    return rows


def _row(
    model: str,
    method: str,
    task: str,
    prompt_kind: str,
    found: Mapping[str, Any],
    base: Mapping[str, Any],
    confidence: float,
    theirs: float | None,
) -> dict[str, Any]:
    """One model on one task. `relative_change` is the paper's: (ours - base) / base, by the base's reasoning prompt."""
    row: dict[str, Any] = {
        "task": task,
        "method": method,
        "model": model,
        "prompt_kind": prompt_kind,
        "n": found["n"],
        "format_accuracy": found["format_accuracy"],
        "clipped": found["clipped"],
        "paper": theirs,
    }
    for protocol in PROTOCOLS:
        correct, before = found[protocol]["correct"], base[protocol]["accuracy"]
        accuracy = found[protocol]["accuracy"]
        row[protocol] = {
            "correct": correct,
            "accuracy": accuracy,
            "interval": list(wilson_interval(correct, found["n"], confidence)),
            "relative_change": (accuracy - before) / before if before and method != "base" else None,
        }
    return row


def _comparisons(
    kind: str, right: Mapping[str, Mapping[str, Mapping[str, bool]]], confidence: float
) -> list[Comparison]:
    found = []
    for task in TASKS:
        for first, second in PAIRS:
            a, b = model_for(first, task, kind), model_for(second, task, kind)
            ours, theirs = right[a][task], right[b][task]
            both = [(ours[key], theirs[key]) for key in ours if key in theirs]
            found.append(compare(a, b, task, both, confidence))
    settle(found, confidence)
    return found


# --- text -------------------------------------------------------------------------------------------------------

_COLUMNS = ("task", "method", "model", "prompt_kind", "n")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a model, task and prompt; accuracies as shares."""
    lines = [
        ",".join(
            [*_COLUMNS]
            + [f"{p}_{name}" for p in PROTOCOLS for name in ("correct", "accuracy", "low", "high", "relative_change")]
            + ["format_accuracy", "clipped", "paper_percent"]
        )
    ]
    for row in rows:
        cells: list[Any] = [row[column] for column in _COLUMNS]
        for protocol in PROTOCOLS:
            found = row[protocol]
            cells += [found["correct"], found["accuracy"], *found["interval"], found["relative_change"]]
        cells += [row["format_accuracy"], row["clipped"], row["paper"]]
        lines.append(
            ",".join("" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in cells)
        )
    return "\n".join(lines) + "\n"


def comparisons_csv(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """One line a comparison; differences as shares."""
    lines = ["first,second,task,n,only_first,only_second,difference,low,high,p_value,p_adjusted,verdict"]
    for c in comparisons:
        cells = [c["first"], c["second"], c["task"], c["n"], c["only_first"], c["only_second"]]
        cells += [f"{value:.6g}" for value in (c["difference"], *c["interval"], c["p_value"], c["p_adjusted"])]
        lines.append(",".join(str(cell) for cell in cells) + f',"{c["verdict"]}"')
    return "\n".join(lines) + "\n"


def markdown(result: Mapping[str, Any], kind: str, protocol: str = "strict") -> str:
    """A table in the paper's layout: a row a method, a column a task, percent with interval."""
    rows = result["same_task" if kind == "same-task" else "cross_task"]
    shown = [task for task in TASKS if any(row["task"] == task for row in rows)]
    header = ["Method", *(f"{task} ({_n(rows, task)} items)" for task in shown)]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join([" --- "] + [" ---: "] * len(shown)) + "|"]
    for method, prompt_kind in (("base", "direct"), *((method, "reasoning") for method in ("base", *METHODS))):
        found = [
            r
            for task in shown
            for r in rows
            if (r["task"], r["method"], r["prompt_kind"]) == (task, method, prompt_kind)
        ]
        if found:
            name = NAMES[method] + (" (asked for the number only)" if prompt_kind == "direct" else "")
            lines.append("| " + " | ".join([name, *(_cell(row, protocol) for row in found)]) + " |")
    return "\n".join(lines) + "\n"


def _n(rows: Sequence[Mapping[str, Any]], task: str) -> int:
    return int(next(row["n"] for row in rows if row["task"] == task))


def _cell(row: Mapping[str, Any], protocol: str) -> str:
    found = row[protocol]
    low, high = found["interval"]
    text = f"{100 * found['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    if found["relative_change"] is not None:
        text += f", {100 * found['relative_change']:+.0f}% relative to base"
    # the paper counts as R1-V does: its figures belong beside that count alone
    return text + (f"; paper {row['paper']:.2f}" if protocol == "r1v" and row["paper"] is not None else "")
