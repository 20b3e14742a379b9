"""The GRPO objective (Eq. 4) with the k3 estimate of the KL divergence (Eq. 5)."""

import torch

from othink_mr1.grpo.shared_prefix import token_mean

LOSS_TYPES = ("grpo", "dr_grpo", "dapo")
# exp(20) is 5e8. A token that the reference likes even more than that, beside the policy that sampled it, counts as at
# the limit and pulls no further: exp would overflow.
MAX_LOG_RATIO = 20.0


def k3(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Eq. 5 for each token: `pi_ref / pi - log(pi_ref / pi) - 1`, never negative."""
    log_ratio = (ref_logprobs - logprobs).clamp(max=MAX_LOG_RATIO)
    return log_ratio.expm1() - log_ratio


def grpo_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor | None,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    beta: float,
    epsilon: float,
    epsilon_high: float | None = None,
    loss_type: str = "grpo",
    max_completion_length: int = 0,
    total_tokens: float | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Eq. 4, negated: what is to be made small.

    Args:
        logprobs: (B, G, C) of the policy, with gradient.
        old_logprobs: (B, G, C) of the policy that sampled, without gradient.
        ref_logprobs: (B, G, C) of the reference, or None where beta is 0 throughout.
        advantages: (B, G).
        mask: (B, G, C), 1 for a completion's tokens.
        beta: the KL weight at this step.
        epsilon, epsilon_high: the ratio is clipped to [1 - epsilon, 1 + epsilon_high]; None is epsilon again.
        loss_type: how tokens are averaged. `grpo`: over each completion, then over completions (Eq. 4). `dr_grpo`:
            the sum over B G `max_completion_length` (arXiv 2503.20783: no bias towards short right answers). `dapo`:
            the sum over `total_tokens` (arXiv 2503.14476: every token counts alike).
        total_tokens: for dapo; None is the number of tokens here.

    Returns:
        The loss (a scalar) and, for logging, the token means of `kl` and of `clip_ratio/{low,high,region}_mean`.
    """
    ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    advantage = advantages[..., None]
    low, high = 1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high)
    gain = torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
    stats = {}
    if ref_logprobs is not None:
        kl = k3(logprobs, ref_logprobs)
        gain = gain - beta * kl
        stats["kl"] = token_mean(kl.detach(), mask)
    gain = gain * mask
    if loss_type == "grpo":
        loss = -(gain.sum(-1) / mask.sum(-1).clamp(min=1)).mean()
    elif loss_type == "dr_grpo":
        loss = -gain.sum() / (advantages.numel() * max_completion_length)
    else:
        loss = -gain.sum() / (mask.sum().clamp(min=1) if total_tokens is None else total_tokens)
    below, above = (ratio < low) & (advantage < 0), (ratio > high) & (advantage > 0)
    for name, acts in (("low", below), ("high", above), ("region", below | above)):
        stats[f"clip_ratio/{name}_mean"] = token_mean(acts.float(), mask)
    return loss, stats
