"""What a step's prompts led to: completions, rewards, advantages, and the log-probabilities that later updates need.

With one update a rollout an experience lives for one step. With several it outlives checkpoints, so it can be saved.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import Sampler

from othink_mr1.grpo.shared_prefix import PackedBatch
from othink_mr1.models.passes import Features, prompt_positions
from othink_mr1.models.processor import PromptBatch
from othink_mr1.training.samples import Sample


@dataclass
class Group:
    """One prompt's G completions."""

    sample: Sample
    ids: torch.Tensor  # (G, C), padded on the right
    mask: torch.Tensor  # (G, C)
    ended: torch.Tensor  # (G,), False where a completion was cut off
    texts: list[str]
    rewards: torch.Tensor = field(default_factory=torch.Tensor)  # (G, functions); NaN where one had nothing to say
    reward: torch.Tensor = field(default_factory=torch.Tensor)  # (G,), their weighted sum (Eq. 1)


@dataclass
class Experience:
    """A micro-batch of B prompts, ready for the loss."""

    samples: list[Sample]
    batch: PackedBatch
    advantages: torch.Tensor  # (B, G)
    features: Features | None = None  # where the vision tower is frozen: the reference's too
    policy_features: Features | None = None  # the trained tower's, with its graph, which one backward pass uses up
    old_logprobs: torch.Tensor | None = None  # (B, G, C), once the first update has computed them
    ref_logprobs: torch.Tensor | None = None  # the same of the reference


def experience_of(
    groups: Sequence[Group], prompts: PromptBatch, model: torch.nn.Module, advantages: torch.Tensor
) -> Experience:
    """The groups of a micro-batch in one, padded to the longest completion."""
    longest = max(group.ids.shape[1] for group in groups)

    def stacked(rows: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([torch.nn.functional.pad(row, (0, longest - row.shape[1])) for row in rows])

    batch = PackedBatch(
        prompts,
        prompt_positions(model, prompts),
        stacked([group.ids for group in groups]),
        stacked([group.mask for group in groups]),
    )
    return Experience([group.sample for group in groups], batch, advantages)


_SAVED = ("old_logprobs", "ref_logprobs")


def save_experiences(experiences: Sequence[Experience], path: Path) -> None:
    """Everything but the prompts, which are made again from the samples' indices."""
    tensors: dict[str, torch.Tensor] = {}
    for number, experience in enumerate(experiences):
        found = {
            "completion_ids": experience.batch.completion_ids,
            "completion_mask": experience.batch.mask,
            "advantages": experience.advantages,
            **{name: getattr(experience, name) for name in _SAVED},
        }
        tensors |= {f"{number}.{name}": value.contiguous() for name, value in found.items() if value is not None}
    indices = [[sample["index"] for sample in experience.samples] for experience in experiences]
    save_file(tensors, path, {"indices": json.dumps(indices)})


def load_experiences(
    path: Path,
    collate: Callable[[list[int]], tuple[PromptBatch, list[Sample]]],
    model: torch.nn.Module,
    device: torch.device,
) -> list[Experience]:
    """The inverse of `save_experiences`.

    Args:
        collate: encodes the samples with the given indices.
    """
    experiences = []
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        for number, indices in enumerate(json.loads(file.metadata()["indices"])):
            prompts, samples = collate(indices)
            prompts = prompts.to(device)

            def read(name: str, prefix: int = number) -> torch.Tensor | None:
                full = f"{prefix}.{name}"
                return file.get_tensor(full).to(device) if full in names else None

            ids, mask = read("completion_ids"), read("completion_mask")
            assert ids is not None
            batch = PackedBatch(prompts, prompt_positions(model, prompts), ids, mask)
            advantages = read("advantages")
            assert advantages is not None
            loaded = {name: read(name) for name in _SAVED}
            experiences.append(Experience(samples, batch, advantages, **loaded))  # type: ignore[arg-type]
    return experiences


class RepeatedWindows(Sampler[int]):
    """Another sampler's indices in windows, each of which comes several times in a row.

    A window is what one rollout serves: as many indices as all processes' micro-batches of one step hold. Indices
    that do not fill a last window are left out: a rollout has to serve all its updates.
    """

    def __init__(self, sampler: Sampler[int], window: int, times: int) -> None:
        self.sampler, self.window, self.times = sampler, window, times

    def __len__(self) -> int:
        return len(self.sampler) // self.window * self.window * self.times  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        window: list[int] = []
        for index in self.sampler:
            window.append(index)
            if len(window) == self.window:
                for _ in range(self.times):
                    yield from window
                window = []

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
