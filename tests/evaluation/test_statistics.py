"""Intervals and tests, held against numbers worked out by hand or by R."""

import math

import numpy as np
import pytest
import scipy.stats

from othink_mr1.evaluation.statistics import (
    bootstrap_difference,
    compare,
    detectable_difference,
    differs_from_zero,
    holm,
    mcnemar_exact,
    mean_interval,
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
    # z: 1.959964 (two-sided 5%) + 0.841621 (power 80%); 2.807034 for 5% shared by 10 comparisons
    assert detectable_difference(400, 0.25) == pytest.approx(2.801585 * (0.25 / 400) ** 0.5, abs=1e-6)
    assert detectable_difference(400, 0.25, comparisons=10) == pytest.approx(3.648655 * (0.25 / 400) ** 0.5, abs=1e-6)
    # Models that agree on all of 100 items would have to disagree on z²/n of them, all in favour of one.
    assert detectable_difference(100, 0.0) == pytest.approx(2.801585**2 / 100, abs=1e-6)
    assert detectable_difference(5, 1.0) == 1.0


def test_detectable_differences_are_found_four_times_in_five() -> None:
    rng, n, discordant = np.random.default_rng(0), 400, 0.25
    gain = detectable_difference(n, discordant)
    shares = [(discordant + gain) / 2, (discordant - gain) / 2, 1 - discordant]
    draws = rng.multinomial(n, shares, size=2000)
    power = np.mean([mcnemar_exact(int(a), int(b)) < 0.05 for a, b, _ in draws])
    assert 0.73 < power < 0.84  # the exact test is a little stricter than the approximation


def test_mean_over_seeds_by_students_t() -> None:
    # mean 0.6, standard deviation 0.1, t(0.975, 2) = 4.302653
    assert mean_interval([0.5, 0.6, 0.7]) == pytest.approx((0.6, 0.6 - 4.302653 * 0.1 / 3**0.5, 0.848414), abs=1e-6)
    assert mean_interval([0.4]) == (0.4, float("-inf"), float("inf"))
    values = [0.02, 0.05, 0.01, 0.04]
    assert differs_from_zero(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue)
    assert differs_from_zero([0.1]) == differs_from_zero([0.0, 0.0]) == 1.0
    assert differs_from_zero([0.1, 0.1]) == 0.0


def test_wilson_and_mcnemar_are_scipys() -> None:
    for correct, n in [(1, 7), (150, 200), (255, 754), (753, 754)]:
        theirs = scipy.stats.binomtest(correct, n).proportion_ci(0.9, method="wilson")
        assert wilson_interval(correct, n, 0.9) == pytest.approx((theirs.low, theirs.high))
    for b, c in [(3, 9), (40, 25), (1, 0)]:
        tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
        assert mcnemar_exact(b, c) == pytest.approx(min(1.0, 2 * tail))


def test_words_follow_the_corrected_test_alone() -> None:
    strong = compare("a", "b", "counting", [(True, False)] * 30 + [(True, True)] * 70)
    weak = compare("a", "c", "counting", [(True, False)] * 6 + [(True, True)] * 94)
    worse = compare("a", "d", "counting", [(False, True)] * 30 + [(True, True)] * 70)
    assert weak.p_value == pytest.approx(0.03125)  # would pass alone
    even = compare("a", "e", "counting", [(True, True)] * 100)
    settle([strong, weak, worse, even])
    assert (strong.verdict, worse.verdict) == ("better", "worse")
    assert weak.p_adjusted == pytest.approx(0.0625)
    assert weak.verdict.startswith(
        "no difference shown with 100 items; this many show differences from about 11 points"
    )
    assert even.verdict.startswith("no difference shown")
