"""What a candidate must show before it becomes champion: plain functions on the items that each model got right.

Both models answer the same test items, so they are compared in pairs: McNemar's exact test on the items that only
one of them got right.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from othink_mr1.evaluation.statistics import compare, p_text

Answers = Mapping[str, bool]  # item -> answered correctly


@dataclass(frozen=True)
class Limits:
    """How much worse a challenger may be.

    `alpha`: below this two-sided p a loss on the own task counts as one. `max_cross_task_drop`: what the cross task's
    accuracy may lose, as an absolute difference of shares (0.05: five percentage points), however sure the loss is.
    """

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
    """Of a first champion: better than the base on its own task, by however little; the cross task is told, not asked.

    A model that answers as the base does, such as one that was hardly trained, is nothing to put before users.
    """
    same = _paired("same task above base", task, "base", candidate, base)
    told = _paired("cross task for information", cross, "base", candidate, base)
    return [
        _decided(same, same.difference > 0, "must be above the base's"),
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
    """Of a challenger: not significantly worse on its own task (lower, and a two-sided p below `limits.alpha` by
    McNemar's exact test), and no large loss on the other.
    """
    same = _paired("same task not worse than champion", task, against, candidate, champion)
    other = _paired("cross task without a large drop", cross, against, candidate, champion)
    worse = same.difference < 0 and same.p_value < limits.alpha
    drop = f"may lose at most {100 * limits.max_cross_task_drop:g} percentage points"
    return [
        _decided(same, not worse, f"must not be worse with a two-sided p below {limits.alpha:g}"),
        # Differences of shares such as 0.55 - 0.6 miss 0.05 by a rounding.
        _decided(other, -other.difference <= limits.max_cross_task_drop + 1e-9, drop),
    ]


def test_set_changed(mine: Mapping[str, Answers], theirs: Mapping[str, Answers], who: str) -> str | None:
    """What to say where the candidate and `who` answered different test items, so that no pairs can be made."""
    for task in sorted(mine.keys() | theirs.keys()):
        here, there = set(mine.get(task, {})), set(theirs.get(task, {}))
        if here != there:
            return (
                f"the {task} test set has changed: {who} answered {len(there)} items, the candidate {len(here)}, "
                f"{len(here & there)} of them the same"
            )
    return None


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
    sure = f"95% interval {low:+.1f} to {high:+.1f}, {p_text(gate.p_value)}, n {gate.n}"
    says = (
        f"{gate.task}: {100 * gate.accuracy:.1f}% against {100 * gate.other:.1f}% of {gate.against}, "
        f"{points:+.1f} points ({sure}); {condition}"
    )
    return Gate(**{**gate.__dict__, "passed": passed, "says": says})
