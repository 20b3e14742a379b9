"""The KL weight beta: a function of the training step, which makes GRPO into GRPO-D, or a controller's."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class KLSchedule:
    """beta(s) for s = 1 (the first update) to t (the last).

    Attributes:
        name: dynamic, linear, cosine or constant; see the functions below.
        beta_min, beta_max: the range; a constant schedule uses beta_max.
        exploration: w / t, the share of steps in which `dynamic` falls; 0.3 in the paper.
    """

    name: str
    beta_min: float
    beta_max: float
    exploration: float = 0.3

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(f"kl_schedule is {self.name!r}; it should be one of {', '.join(SCHEDULES)}")
        if not 0 <= self.beta_min <= self.beta_max:
            raise ValueError(f"0 <= beta_min <= beta_max should hold, not {self.beta_min} and {self.beta_max}")
        if not 0 < self.exploration < 1:
            raise ValueError(f"kl_exploration is {self.exploration}; it should lie between 0 and 1")

    def __call__(self, step: int, total_steps: int) -> float:
        return SCHEDULES[self.name](self, step, total_steps)


def dynamic(kl: KLSchedule, s: int, t: int) -> float:
    """Eq. 3: from the middle down to beta_min while the policy explores, then up to beta_max."""
    w = kl.exploration * t
    if s <= w:
        beta_mid = (kl.beta_min + kl.beta_max) / 2
        return beta_mid - (beta_mid - kl.beta_min) * s / w
    return kl.beta_min + (kl.beta_max - kl.beta_min) * (s - w) / (t - w)


def linear(kl: KLSchedule, s: int, t: int) -> float:
    """The paper's prose, "starts from a small value and gradually increases": a straight rise to beta_max."""
    return kl.beta_min + (kl.beta_max - kl.beta_min) * s / t


def cosine(kl: KLSchedule, s: int, t: int) -> float:
    """Half a cosine from beta_min up to beta_max: slow at both ends."""
    return kl.beta_min + (kl.beta_max - kl.beta_min) * (1 - math.cos(math.pi * s / t)) / 2


def constant(kl: KLSchedule, s: int, t: int) -> float:
    """GRPO as the paper compares with: beta_max throughout."""
    return kl.beta_max


@dataclass
class AdaptiveKL:
    """Ziegler's controller: beta grows while the KL divergence is above its target, and falls while it is below.

    Source: Ziegler et al., Fine-Tuning Language Models from Human Preferences (arXiv 1909.08593), section 2.2:
    `e = clip(KL / target - 1, -0.2, 0.2)`, `beta <- beta (1 + e / horizon)` after each update.

    Attributes:
        beta: the present weight; the controller's whole state.
        target: the mean k3 per completion token (`kl` in the log), in nats, that is steered towards.
        horizon: updates in which an error of 0.2 changes beta by about a fifth.
    """

    beta: float
    target: float
    horizon: float

    def __post_init__(self) -> None:
        for name in ("beta", "target", "horizon"):
            least = 1 if name == "horizon" else 0  # a shorter one could turn beta's sign in a single update
            if not least <= getattr(self, name) < math.inf or getattr(self, name) == 0:
                raise ValueError(f"kl_schedule adaptive: {name} is {getattr(self, name)}; it should be above {least}")

    def __call__(self, step: int, total_steps: int) -> float:
        return self.beta

    def update(self, kl: float) -> None:
        """Takes the KL divergence of the update just made; a non-finite one is passed over."""
        if math.isfinite(kl):
            self.beta *= 1 + min(max(kl / self.target - 1, -0.2), 0.2) / self.horizon


SCHEDULES: dict[str, Callable[[KLSchedule, int, int], float]] = {
    "dynamic": dynamic,
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
}
