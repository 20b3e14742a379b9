"""What a candidate must show before it becomes champion: plain functions on the items that each model got right.

Both models answer the same test items, so they are compared in pairs: McNemar's exact test on the items that only
one of them got right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from othink_mr1.errors import UserError
from othink_mr1.evaluation.statistics import compare

Answers = Mapping[str, bool]  # sample_id -> answered correctly


@dataclass(frozen=True)
class Limits:
    """`alpha`: significance of "worse"; `max_cross_task_drop`: share that the cross task may lose."""

    alpha: float = 0.05
    max_cross_task_drop: float = 0.05


@dataclass(frozen=True)
class Gate:
    """One condition and how it came out. Accuracies are shares; `difference` is the candidate's minus the other's."""

    name: str
    passed: bool
    task: str
    against: str
    n: int
    accuracy: float
    other: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    says: str


def first_gates(task: str, cross: str, candidate: Mapping[str, Answers], base: Mapping[str, Answers]) -> list[Gate]:
    """Of a first champion: not worse than the base on its own task. The cross task is told, not asked."""
    same = _paired("same task not below base", task, "base", candidate, base)
    told = _paired("cross task for information", cross, "base", candidate, base)
    return [
        _decided(same, same.difference >= 0, "must not be below the base's"),
        _decided(told, True, "not a condition"),
    ]


def champion_gates(
    task: str,
    cross: str,
    candidate: Mapping[str, Answers],
    champion: Mapping[str, Answers],
    against: str,
    limits: Limits = Limits(),
) -> list[Gate]:
    """Of a challenger: not significantly worse on its own task, and no large loss on the other."""
    same = _paired("same task not worse than champion", task, against, candidate, champion)
    other = _paired("cross task without a large drop", cross, against, candidate, champion)
    worse = same.difference < 0 and same.p_value < limits.alpha
    drop = f"may lose {100 * limits.max_cross_task_drop:g} points"
    return [
        _decided(same, not worse, f"must not be significantly worse (alpha {limits.alpha:g})"),
        # Differences of shares such as 0.55 - 0.6 miss 0.05 by a rounding.
        _decided(other, -other.difference <= limits.max_cross_task_drop + 1e-9, drop),
    ]


def read_answers(predictions: Path) -> dict[str, dict[str, bool]]:
    """Which items a model got right, a task, from its predictions.parquet (R1-V's prompt, the strict reading)."""
    import pyarrow.parquet as pq

    columns = ["task", "sample_id", "prompt_kind", "correct_strict"]
    answers: dict[str, dict[str, bool]] = {}
    for row in pq.read_table(predictions, columns=columns).to_pylist():
        if row["prompt_kind"] == "reasoning":
            answers.setdefault(row["task"], {})[row["sample_id"]] = bool(row["correct_strict"])
    return answers


def check_same_items(mine: Mapping[str, Answers], theirs: Mapping[str, Answers], who: str, advice: str) -> None:
    """Refuse to compare models that answered different test items.

    Raises:
        UserError: the items differ on some task.
    """
    for task in sorted(mine.keys() | theirs.keys()):
        here, there = set(mine.get(task, {})), set(theirs.get(task, {}))
        if here != there:
            raise UserError(
                f"the {task} test set has changed: {who} answered {len(there)} items, the candidate {len(here)}, "
                f"{len(here & there)} of them the same; {advice}"
            )


def _paired(name: str, task: str, against: str, first: Mapping[str, Answers], second: Mapping[str, Answers]) -> Gate:
    mine, theirs = first.get(task, {}), second.get(task, {})
    pairs = [(mine[item], theirs[item]) for item in sorted(mine)]
    result = compare("candidate", against, task, pairs)
    n = max(result.n, 1)
    return Gate(
        name,
        False,
        task,
        against,
        result.n,
        sum(mine.values()) / n,
        sum(theirs.values()) / n,
        result.difference,
        result.interval,
        result.p_value,
        "",
    )


def _decided(gate: Gate, passed: bool, condition: str) -> Gate:
    points = 100 * gate.difference
    low, high = (100 * bound for bound in gate.interval)
    says = (
        f"{gate.task}: {100 * gate.accuracy:.1f}% against {100 * gate.other:.1f}% of {gate.against}, "
        f"{points:+.1f} points (95% interval {low:+.1f} to {high:+.1f}, p {gate.p_value:.3g}, n {gate.n}); {condition}"
    )
    return Gate(**{**gate.__dict__, "passed": passed, "says": says})
