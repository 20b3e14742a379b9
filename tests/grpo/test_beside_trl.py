"""The loss and its gradients are those of TRL's own loss on the same log-probabilities."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from othink_mr1.grpo.advantages import group_advantages
from othink_mr1.grpo.loss import grpo_loss

trl_trainer = pytest.importorskip("trl.trainer.grpo_trainer")

BETA, EPSILON, LONGEST = 0.07, 0.2, 9


def trls_loss(logprobs: torch.Tensor, batch: dict[str, Any], loss_type: str, epsilon_high: float) -> torch.Tensor:
    """`GRPOTrainer._compute_loss` with nothing of a trainer but what it reads."""
    accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x
    )

    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        model=SimpleNamespace(training=True), aux_loss_enabled=False, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, importance_sampling_level="token", beta=BETA, loss_type=loss_type,
        epsilon_low=EPSILON, epsilon_high=epsilon_high, use_vllm=False,
        vllm_importance_sampling_correction=False,
        max_completion_length=LONGEST, current_gradient_accumulation_steps=1, accelerator=accelerator,
        _entropy_bonus_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
    )  # fmt: skip
    return trl_trainer.GRPOTrainer._compute_loss(trainer, trainer.model, batch)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("drift", [0.0, 0.4])
def test_loss_and_gradient_are_trls(loss_type: str, drift: float) -> None:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    groups, group, length = 2, 4, 6
    rewards = draw(groups, group)
    advantages = group_advantages(rewards)
    new = (-2 + draw(groups, group, length)).requires_grad_()
    old, reference = (
        new.detach() + drift * draw(groups, group, length),
        new.detach() + 0.3 * draw(groups, group, length),
    )
    mask = (torch.arange(length) < torch.tensor([[6, 1, 3, 2], [2, 6, 4, 5]])[..., None]).float()

    flat = lambda x: x.flatten(0, 1)  # noqa: E731
    rows = groups * group
    batch = {
        "prompt_ids": torch.zeros(rows, 3, dtype=torch.long), "prompt_mask": torch.ones(rows, 3, dtype=torch.long),
        "completion_ids": torch.zeros(rows, length, dtype=torch.long), "completion_mask": flat(mask),
        "advantages": advantages.flatten(), "old_per_token_logps": flat(old), "ref_per_token_logps": flat(reference),
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    theirs = trls_loss(flat(new), batch, loss_type, 0.28)
    (their_gradient,) = torch.autograd.grad(theirs, new)
    ours, _ = grpo_loss(new, old, reference, advantages, mask, BETA, EPSILON, 0.28, loss_type, LONGEST)
    (our_gradient,) = torch.autograd.grad(ours, new)
    assert abs(ours - theirs) < 1e-5
    assert (our_gradient - their_gradient).abs().max() < 1e-5
    assert their_gradient.abs().max() > 1e-3
