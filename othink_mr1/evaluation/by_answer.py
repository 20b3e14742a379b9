"""Accuracy by true answer: whether a method is right everywhere, or only where the answer is a frequent one."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from othink_mr1.answers import normalise, truth_of
from othink_mr1.evaluation.predictions import read_predictions

_MOST = 12  # answers of a task that get a row of their own
OTHERS = "others"


def by_answer(folder: Path, task: str, models: Mapping[str, str]) -> list[dict[str, Any]]:
    """Right answers to `task` by true answer, strictly read and under the reasoning prompt.

    Args:
        folder: holds one folder a model.
        models: method -> model.

    Returns:
        A dict an answer, the most frequent ones in numeric order and the rest as "others": answer, n, and right,
        which has the number of right answers of each method.
    """
    right: dict[str, Counter[str]] = defaultdict(Counter)
    items: Counter[str] = Counter()
    for method, model in models.items():
        rows = read_predictions(folder / model, ("task", "prompt_kind", "solution", "correct_strict"))
        mine = [row for row in rows if row["task"] == task and row["prompt_kind"] == "reasoning"]
        truths = [normalise(truth_of(row["solution"])) for row in mine]
        items = Counter(truths)
        for truth, row in zip(truths, mine, strict=True):
            right[method][truth] += row["correct_strict"]
    own = sorted(sorted(items, key=lambda truth: (-items[truth], truth))[:_MOST], key=_number_first)
    groups: list[tuple[str, Sequence[str]]] = [(truth, [truth]) for truth in own]
    if rest := [truth for truth in items if truth not in own]:
        groups.append((OTHERS, rest))
    return [
        {
            "answer": name,
            "n": sum(items[truth] for truth in truths),
            "right": {method: sum(right[method][truth] for truth in truths) for method in models},
        }
        for name, truths in groups
    ]


def _number_first(truth: str) -> tuple[float, str]:
    digits = truth.rstrip("°cm² ")
    try:
        return float(digits), truth
    except ValueError:
        return float("inf"), truth


def csv_text(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One line a task, answer and method."""
    lines = ["task,answer,n,method,right"]
    for task, rows in found.items():
        lines += [f'{task},"{r["answer"]}",{r["n"]},{m},{k}' for r in rows for m, k in r["right"].items()]
    return "\n".join(lines) + "\n"
