"""The conditions on plain vectors of right and wrong."""

import pytest
from scipy.stats import binomtest

from othink_mr1.registry.gates import Limits, champion_gates, first_gates
from othink_mr1.registry.gates import test_set_changed as changed


def answers(right: int, n: int = 100, task: str = "counting") -> dict[str, dict[str, bool]]:
    """Of n items the first `right` correct."""
    return {task: {f"i{k}": k < right for k in range(n)}}


def both(counting: int, geometry: int, n: int = 100) -> dict[str, dict[str, bool]]:
    return answers(counting, n) | answers(geometry, n, "geometry")


def outcome(gates: list) -> list[bool]:
    return [gate.passed for gate in gates]


@pytest.mark.parametrize(("candidate", "passes"), [(51, True), (50, False), (49, False), (0, False)])
def test_a_first_champion_is_above_its_base(candidate: int, passes: bool) -> None:
    gates = first_gates("counting", "geometry", both(candidate, 0), both(50, 90))
    assert outcome(gates) == [passes, True], "the cross task is told, not asked"


def test_worse_needs_significance_on_the_own_task() -> None:
    slightly = champion_gates("counting", "geometry", both(57, 50), both(60, 50), "version 1")
    clearly = champion_gates("counting", "geometry", both(40, 50), both(60, 50), "version 1")
    assert outcome(slightly) == [True, True]
    assert outcome(clearly) == [False, True]
    assert clearly[0].p_value == pytest.approx(binomtest(0, 20, 0.5).pvalue)
    assert clearly[0].difference == pytest.approx(-0.2)


@pytest.mark.parametrize(("cross", "passes"), [(55, True), (54, False), (80, True)])
def test_the_cross_task_may_lose_a_stated_share_and_no_more(cross: int, passes: bool) -> None:
    gates = champion_gates("counting", "geometry", both(60, cross), both(60, 60), "version 1", Limits(0.05, 0.05))
    assert outcome(gates) == [True, passes]


def test_a_gate_says_numbers_a_reader_can_check() -> None:
    [same, _] = champion_gates("counting", "geometry", both(40, 50), both(60, 50), "version 1")
    assert "40.0% against 60.0% of version 1, -20.0 points" in same.says
    assert "n 100" in same.says


def test_models_that_answered_other_items_are_not_compared() -> None:
    said = changed(both(50, 50), both(50, 50, n=90), "version 1")
    assert said is not None
    assert "the counting test set has changed: version 1 answered 90 items, the candidate 100, 90 of them" in said
    assert changed(both(50, 50), both(40, 60), "version 1") is None


def test_a_gate_says_what_is_held_against_what() -> None:
    [same, cross] = champion_gates("counting", "geometry", both(60, 60), both(60, 60), "version 1", Limits(0.01, 0.03))
    assert same.says.endswith("must not be worse with a two-sided p below 0.01")
    assert cross.says.endswith("may lose at most 3 percentage points")
