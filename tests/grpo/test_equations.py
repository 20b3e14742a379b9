"""The equations against slow versions of themselves, written from the paper."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from othink_mr1.grpo.advantages import group_advantages
from othink_mr1.grpo.kl import AdaptiveKL, KLSchedule
from othink_mr1.grpo.loss import grpo_loss, k3


def test_eq_3_at_the_papers_values() -> None:
    beta = KLSchedule("dynamic", 0.04, 0.1)
    values = [beta(s, 100) for s in (1, 15, 30, 65, 100)]
    assert values == pytest.approx([0.07 - 0.03 / 30, 0.055, 0.04, 0.07, 0.1])
    assert KLSchedule("dynamic", 0.0, 0.02)(30, 100) == 0


@given(low=st.floats(0, 1), width=st.floats(0, 1), total=st.integers(1, 500), exploration=st.floats(0.05, 0.95))
def test_eq_3_falls_then_rises_within_its_range(low: float, width: float, total: int, exploration: float) -> None:
    beta = KLSchedule("dynamic", low, low + width, exploration)
    values = [beta(s, total) for s in range(1, total + 1)]
    turn = sum(s <= exploration * total for s in range(1, total + 1))
    assert all(low - 1e-12 <= v <= low + width + 1e-12 for v in values)
    assert all(a >= b - 1e-12 for a, b in pairwise(values[:turn]))
    assert all(a <= b + 1e-12 for a, b in pairwise(values[turn:]))
    assert values[-1] == pytest.approx(low + width)


def test_the_other_schedules() -> None:
    assert [KLSchedule("linear", 0.0, 0.1)(s, 10) for s in (1, 5, 10)] == pytest.approx([0.01, 0.05, 0.1])
    assert [KLSchedule("cosine", 0.0, 0.1)(s, 10) for s in (5, 10)] == pytest.approx([0.05, 0.1])
    assert {KLSchedule("constant", 0.0, 0.04)(s, 10) for s in range(1, 11)} == {0.04}


@pytest.mark.parametrize("wrong", [("steep", 0, 1, 0.3), ("dynamic", 0.2, 0.1, 0.3), ("dynamic", 0, 0.1, 1.0)])
def test_impossible_schedules_are_refused(wrong: tuple) -> None:
    with pytest.raises(ValueError, match=r"should"):
        KLSchedule(*wrong)


def slow_advantages(rewards: list[list[float]]) -> list[list[float]]:
    out = []
    for group in rewards:
        mean = sum(group) / len(group)
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1))
        out.append([(r - mean) / (std + 1e-4) for r in group])
    return out


def test_eq_2() -> None:
    rewards = torch.randn(4, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor(slow_advantages(rewards.tolist()), dtype=torch.double)
    torch.testing.assert_close(group_advantages(rewards), expected, rtol=1e-12, atol=1e-12)
    assert (group_advantages(torch.full((2, 8), 1.3)) == 0).all()


def slow_loss(new, old, ref, advantages, lengths, beta, epsilon):
    """Eq. 4 and 5, token by token."""
    per_completion = []
    for b in range(len(new)):
        for g in range(len(new[b])):
            total = 0.0
            for t in range(lengths[b][g]):
                ratio = torch.exp(new[b, g, t] - old[b, g, t])
                a = advantages[b][g]
                low, high = (torch.tensor(e, dtype=torch.double) for e in (1 - epsilon, 1 + epsilon))
                clipped = min(max(ratio, low), high)
                quotient = torch.exp(ref[b, g, t] - new[b, g, t])
                kl = quotient - torch.log(quotient) - 1
                total = total - (min(ratio * a, clipped * a) - beta * kl)
            per_completion.append(total / lengths[b][g])
    return sum(per_completion) / len(per_completion)


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_eq_4_and_5_value_and_gradient(drift: float) -> None:
    generator = torch.Generator().manual_seed(3)
    draw = lambda: torch.randn(2, 3, 5, dtype=torch.double, generator=generator)  # noqa: E731
    new = (-2 + draw()).requires_grad_()
    old = new.detach() + drift * draw()
    ref = new.detach() + 0.3 * draw()
    advantages = torch.randn(2, 3, dtype=torch.double, generator=generator)
    lengths = [[5, 1, 3], [2, 5, 4]]
    mask = (torch.arange(5) < torch.tensor(lengths)[..., None]).double()

    loss, stats = grpo_loss(new, old, ref, advantages, mask, beta=0.07, epsilon=0.2)
    (gradient,) = torch.autograd.grad(loss, new)
    expected = slow_loss(new, old, ref, advantages.tolist(), lengths, 0.07, 0.2)
    (expected_gradient,) = torch.autograd.grad(expected, new)
    assert abs(loss - expected) < 1e-9
    assert (gradient - expected_gradient).abs().max() < 1e-9
    assert (stats["clip_ratio/region_mean"] > 0) == (drift > 0)


def test_k3_is_bounded_and_never_negative_and_pulls_towards_the_reference() -> None:
    policy = torch.zeros(5, requires_grad=True)
    values = k3(policy, torch.tensor([-1000.0, -25.0, 0.0, 5.0, 1000.0]))
    (gradient,) = torch.autograd.grad(values.sum(), policy)
    assert torch.isfinite(values).all()
    assert (values >= 0).all()
    assert values[2] == 0
    # Down where the policy is above the reference, up where it is below.
    torch.testing.assert_close(gradient, torch.tensor([1.0, 1.0, 0.0, 1 - math.exp(5.0), 0.0]), rtol=1e-5, atol=0)


def test_without_a_reference_there_is_no_kl() -> None:
    logprobs = torch.zeros(1, 2, 3)
    loss, stats = grpo_loss(logprobs, logprobs, None, torch.tensor([[1.0, -1.0]]), torch.ones(1, 2, 3), 0.1, 0.2)
    assert loss == 0
    assert "kl" not in stats


def test_the_controller_is_zieglers() -> None:
    control = AdaptiveKL(beta=0.1, target=0.05, horizon=10)
    for kl, factor in ((0.05, 1.0), (0.055, 1.01), (5.0, 1.02), (0.0, 0.98), (math.nan, 1.0)):
        before = control.beta
        assert control(1, 10) == before
        control.update(kl)
        assert control.beta == pytest.approx(before * factor)
    with pytest.raises(ValueError, match="beta is 0; it should be above 0"):
        AdaptiveKL(beta=0, target=0.05, horizon=10)


def test_advantages_by_other_scales() -> None:
    rewards = torch.randn(3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    centred = rewards - rewards.mean(1, keepdim=True)
    torch.testing.assert_close(group_advantages(rewards, "none"), centred)
    torch.testing.assert_close(group_advantages(rewards, "batch"), centred / (rewards.std() + 1e-4))


def test_losses_of_other_types_and_a_higher_clip() -> None:
    generator = torch.Generator().manual_seed(3)
    new, old = (torch.randn(2, 3, 5, dtype=torch.double, generator=generator) for _ in range(2))
    advantages = torch.randn(2, 3, dtype=torch.double, generator=generator)
    mask = (torch.arange(5) < torch.tensor([[5, 1, 3], [2, 0, 4]])[..., None]).double()
    ratio = (new - old).exp()
    gain = torch.minimum(ratio * advantages[..., None], ratio.clamp(0.8, 1.5) * advantages[..., None]) * mask
    given = (new, old, None, advantages, mask, 0.0, 0.2, 0.5)
    assert grpo_loss(*given, "dr_grpo", 7)[0] == pytest.approx(-gain.sum().item() / (6 * 7))
    assert grpo_loss(*given, "dapo")[0] == pytest.approx(-gain.sum().item() / 15)
    assert grpo_loss(*given, "dapo", total_tokens=30.0)[0] == pytest.approx(-gain.sum().item() / 30)
    stats = grpo_loss(*given)[1]
    high = ((ratio > 1.5) & (advantages[..., None] > 0)) * mask
    assert stats["clip_ratio/high_mean"] == pytest.approx(high.sum().item() / 15)


def test_a_ratio_without_bounds_stays_finite() -> None:
    new = torch.tensor([[[900.0, 0.0]]], requires_grad=True)
    old = torch.tensor([[[0.0, 900.0]]])
    for advantage in (0.0, 1.0, -1.0):
        loss, _ = grpo_loss(new, old, None, torch.tensor([[advantage]]), torch.ones(1, 1, 2), 0.0, 0.2)
        (gradient,) = torch.autograd.grad(loss, new)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
