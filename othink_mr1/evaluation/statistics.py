"""What the figures show, and what they do not: intervals, paired tests, and words backed by them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf, sqrt
from statistics import NormalDist, fmean, stdev
from typing import Any

POWER = 0.8
_RESAMPLES = 10_000


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; (0, 1) without observations."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / n
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the bound is exactly 0 or 1; rounding would leave 1e-17.
    return (0.0 if correct == 0 else middle - half), (1.0 if correct == n else middle + half)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar test: the p-value that items right in one model alone fall evenly to both."""
    from scipy.stats import binomtest

    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def p_text(p_value: float) -> str:
    """`p < 0.001` or `p = 0.012`."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def bootstrap_difference(
    only_first: int, only_second: int, n: int, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the paired difference in accuracy (first - second).

    Drawing n items with replacement only matters through how many of each kind come: a multinomial draw.
    """
    import numpy as np

    if n == 0:
        return -1.0, 1.0
    shares = np.array([only_first, only_second, n - only_first - only_second]) / n
    draws = np.random.default_rng(seed).multinomial(n, shares, size=_RESAMPLES)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def detectable_difference(n: int, discordant: float, confidence: float = 0.95, comparisons: int = 1) -> float:
    """The difference in accuracy that n paired items show in 80% of studies; models disagree on a share `discordant`.

    Normal approximation of McNemar's test (Connor 1987), without the second-order term, at the level that the first
    of `comparisons` has to reach under Holm's correction. No difference is larger than the share on which two models
    disagree, so a share too small for any is raised to the one that just suffices.
    """
    if n == 0:
        return 1.0
    normal = NormalDist()
    z = normal.inv_cdf(1 - (1 - confidence) / comparisons / 2) + normal.inv_cdf(POWER)
    return min(1.0, z * sqrt(max(discordant, z * z / n) / n))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of independent values such as accuracies over seeds, by Student's t; infinite for one value."""
    from scipy.stats import t

    mean = fmean(values)
    if len(values) < 2:
        return mean, -inf, inf
    half = float(t.ppf(0.5 + confidence / 2, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return mean, mean - half, mean + half


def differs_from_zero(values: Sequence[float]) -> float:
    """Two-sided p-value of the one-sample t-test: that differences over seeds are zero on average."""
    from scipy.stats import t

    if len(values) < 2:
        return 1.0
    if stdev(values) == 0:
        return 1.0 if values[0] == 0 else 0.0
    return float(2 * t.sf(abs(fmean(values)) / (stdev(values) / sqrt(len(values))), len(values) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, for several comparisons that are read together."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


@dataclass
class Comparison:
    """Two models on the same items; shares between 0 and 1."""

    first: str
    second: str
    task: str
    n: int
    only_first: int
    only_second: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    p_adjusted: float
    detectable: float
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "interval": list(self.interval)}


def compare(
    first: str, second: str, task: str, right: Sequence[tuple[bool, bool]], confidence: float = 0.95
) -> Comparison:
    """Compare two models by which items each got right; `settle` puts the words in.

    Args:
        right: for each item whether (first, second) answered it correctly.
    """
    n = len(right)
    only_first = sum(a and not b for a, b in right)
    only_second = sum(b and not a for a, b in right)
    p_value = mcnemar_exact(only_first, only_second)
    return Comparison(
        first,
        second,
        task,
        n,
        only_first,
        only_second,
        (only_first - only_second) / n if n else 0.0,
        bootstrap_difference(only_first, only_second, n, confidence),
        p_value,
        p_value,
        detectable_difference(n, (only_first + only_second) / n if n else 1.0, confidence),
        "",
    )


def settle(comparisons: Sequence[Comparison], confidence: float = 0.95) -> None:
    """Adjust the p-values of comparisons that are read together, and say in words what each shows."""
    for comparison, adjusted in zip(comparisons, holm([c.p_value for c in comparisons]), strict=True):
        comparison.p_adjusted = adjusted
        discordant = (comparison.only_first + comparison.only_second) / comparison.n if comparison.n else 1.0
        comparison.detectable = detectable_difference(comparison.n, discordant, confidence, len(comparisons))
        comparison.verdict = _verdict(comparison, confidence)


def _verdict(c: Comparison, confidence: float) -> str:
    if c.p_adjusted < 1 - confidence:
        return "better" if c.difference > 0 else "worse"
    return (
        f"no difference shown with {c.n} items; this many show differences from about {100 * c.detectable:.0f} points"
    )
