"""How much better a completion is than the others of its group (Eq. 2)."""

import torch

# Added to the standard deviation, as in R1-V and TRL.
EPSILON = 1e-4


def group_advantages(rewards: torch.Tensor) -> torch.Tensor:
    """`(r - mean) / (std + 1e-4)` within each group, with the unbiased standard deviation.

    Args:
        rewards: (B, G), the rewards of B groups of G >= 2 completions.

    Returns:
        (B, G); zero in a group where all rewards are equal.
    """
    centred = centre(rewards)
    return centred / (centred.std(1, keepdim=True) + EPSILON)


def centre(rewards: torch.Tensor) -> torch.Tensor:
    """`r - mean` within each group, and exactly zero where all are equal, whatever the rounding of the mean."""
    shifted = rewards - rewards[:, :1]
    return shifted - shifted.mean(1, keepdim=True)
