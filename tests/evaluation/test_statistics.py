"""Intervals and tests, held against numbers worked out by hand or by R."""

import pytest

from othink_mr1.evaluation.statistics import (
    bootstrap_difference,
    compare,
    detectable_difference,
    holm,
    mcnemar_exact,
    settle,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),  # R: prop.test(8, 10, correct = FALSE)
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (100, 200, 0.4313609, 0.5686391),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(9, 1, 22 / 1024), (1, 9, 22 / 1024), (6, 0, 2 / 64), (5, 5, 1.0), (0, 0, 1.0)],
)
def test_mcnemar_is_the_two_sided_sign_test(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar_exact(only_first, only_second) == pytest.approx(p)


def test_bootstrap_agrees_with_the_normal_interval_of_a_large_sample() -> None:
    low, high = bootstrap_difference(300, 200, 1000)
    half = 1.96 * ((0.5 - 0.1**2) / 1000) ** 0.5
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.004)
    assert bootstrap_difference(300, 200, 1000) == (low, high)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_detectable_difference() -> None:
    assert detectable_difference(400, 0.25) == pytest.approx(2.8016 * (0.25 / 400) ** 0.5, abs=1e-4)


def test_words_follow_the_corrected_test_alone() -> None:
    strong = compare("a", "b", "counting", [(True, False)] * 30 + [(True, True)] * 70)
    weak = compare("a", "c", "counting", [(True, False)] * 6 + [(True, True)] * 94)
    worse = compare("a", "d", "counting", [(False, True)] * 30 + [(True, True)] * 70)
    assert weak.p_value == pytest.approx(0.03125)  # would pass alone
    even = compare("a", "e", "counting", [(True, True)] * 100)
    settle([strong, weak, worse, even])
    assert (strong.verdict, worse.verdict) == ("better", "worse")
    assert weak.p_adjusted == pytest.approx(0.0625)
    assert weak.verdict.startswith("no difference shown with 100 items; this many show differences from about 7 points")
    assert even.verdict.startswith("no difference shown")
