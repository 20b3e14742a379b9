"""The GRPO objective (Eq. 4) with the k3 estimate of the KL divergence (Eq. 5)."""

import torch

from othink_mr1.grpo.shared_prefix import token_mean

# exp(20) is 5e8. A token that the reference likes so much more than the policy that sampled it gets no pull beyond:
# exp would overflow, and one token would be the whole gradient.
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
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Eq. 4: the mean over completions of the mean over their tokens.

    Args:
        logprobs: (B, G, C) of the policy, with gradient.
        old_logprobs: (B, G, C) of the policy that sampled, without gradient.
        ref_logprobs: (B, G, C) of the reference, or None where beta is 0 throughout.
        advantages: (B, G).
        mask: (B, G, C), 1 for a completion's tokens.
        beta: the KL weight at this step.
        epsilon: the ratio is clipped to [1 - epsilon, 1 + epsilon].

    Returns:
        The loss (a scalar) and, for logging, the token means of `kl` and of `clip_ratio/region_mean`.
    """
    ratio = (logprobs - old_logprobs).exp()
    advantage = advantages[..., None]
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    lengths = mask.sum(-1).clamp(min=1)
    stats = {}
    if ref_logprobs is not None:
        kl = k3(logprobs, ref_logprobs)
        gain = gain - beta * kl
        stats["kl"] = token_mean(kl.detach(), mask)
    loss = -((gain * mask).sum(-1) / lengths).mean()
    acts = ((ratio < 1 - epsilon) & (advantage < 0)) | ((ratio > 1 + epsilon) & (advantage > 0))
    stats["clip_ratio/region_mean"] = token_mean(acts.float(), mask)
    return loss, stats
