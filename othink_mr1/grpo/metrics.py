"""What is told of a step's experience: TRL's metrics, and the completions themselves."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from othink_mr1.grpo.advantages import centre
from othink_mr1.grpo.experience import Group

# step, and for each completion its sample, prompt, text, rewards and advantage
Record = Callable[[int, list[dict[str, Any]]], None]


def metrics_of(
    groups: Sequence[Group], names: Sequence[str], gather: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, float]:
    """Rewards and lengths of a step's completions, by TRL's names.

    Args:
        groups: this process's; every process has as many.
        names: of the reward functions.
        gather: puts the processes' tensors one after the other.
    """
    told = {}
    for number, name in enumerate(names):
        values = gather(torch.cat([group.rewards[:, number] for group in groups]))
        known = values[~values.isnan()]
        if len(known):
            told[f"rewards/{name}/mean"] = known.mean().item()
            told[f"rewards/{name}/std"] = known.std().item() if len(known) > 1 else 0.0
    reward = gather(torch.stack([group.reward for group in groups]))
    std = centre(reward).std(1)
    lengths = gather(torch.cat([group.mask.sum(1) for group in groups]).float())
    ended = gather(torch.cat([group.ended for group in groups]))
    told |= {
        "reward": reward.mean().item(),
        "reward_std": std.mean().item(),
        "frac_reward_zero_std": (std == 0).float().mean().item(),
        "completions/mean_length": lengths.mean().item(),
        "completions/min_length": lengths.min().item(),
        "completions/max_length": lengths.max().item(),
        "completions/clipped_ratio": (~ended).float().mean().item(),
    }
    if ended.any():
        told["completions/mean_terminated_length"] = lengths[ended].mean().item()
    return told


def rows_of(groups: Sequence[Group], advantages: torch.Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each completion.

    Args:
        groups: N of them.
        advantages: (N, G).
        names: of the reward functions.
    """
    return [
        {
            "sample_id": group.sample.get("sample_id", str(group.sample["index"])),
            "index": group.sample["index"],
            "task": group.sample.get("task", ""),
            "prompt": group.sample.get("prompt", group.sample["problem"]),
            "solution": group.sample["solution"],
            "completion": text,
            **{name: _known(value) for name, value in zip(names, rewards.tolist(), strict=True)},
            "reward": reward.item(),
            "advantage": advantage.item(),
        }
        for group, row in zip(groups, advantages, strict=True)
        for text, rewards, reward, advantage in zip(group.texts, group.rewards, group.reward, row, strict=True)
    ]


def _known(reward: float) -> float | None:
    return None if math.isnan(reward) else reward
