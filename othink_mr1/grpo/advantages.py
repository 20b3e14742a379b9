"""How much better a completion is than the others of its group (Eq. 2)."""

import torch

# Added to the standard deviation, as in R1-V and TRL.
EPSILON = 1e-4


SCALES = ("group", "batch", "none")


def group_advantages(
    rewards: torch.Tensor, scale_rewards: str = "group", batch_std: torch.Tensor | None = None
) -> torch.Tensor:
    """`(r - mean) / (std + 1e-4)` with the mean of each group, and the unbiased standard deviation.

    Args:
        rewards: (B, G), the rewards of B groups of G >= 2 completions.
        scale_rewards: whose standard deviation divides: the `group`'s (Eq. 2), that of all rewards of the `batch`, or
            `none` (Dr. GRPO: a group's spread is no weight).
        batch_std: for "batch", that of a larger batch than `rewards`, such as all processes'.

    Returns:
        (B, G); zero in a group where all rewards are equal.
    """
    centred = centre(rewards)
    if scale_rewards == "none":
        return centred
    if scale_rewards == "batch":
        return centred / ((rewards.std() if batch_std is None else batch_std) + EPSILON)
    return centred / (centred.std(1, keepdim=True) + EPSILON)


def centre(rewards: torch.Tensor) -> torch.Tensor:
    """`r - mean` within each group, and exactly zero where all are equal, whatever the rounding of the mean."""
    shifted = rewards - rewards[:, :1]
    return shifted - shifted.mean(1, keepdim=True)
