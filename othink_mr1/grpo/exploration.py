"""What a step's prompts lead to: their groups of completions, each rewarded.

A prompt whose completions all have the same reward teaches nothing. With `dynamic_sample` a further prompt takes its
place (Yu et al. 2025, DAPO); which one depends on seed and step alone, so a resumed run, or one of another number of
processes, takes the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedModel

from othink_mr1.grpo.advantages import centre
from othink_mr1.grpo.config import GRPODConfig
from othink_mr1.grpo.experience import Group
from othink_mr1.grpo.rollout import completions, generate, noise
from othink_mr1.models.passes import Features, image_features
from othink_mr1.models.processor import Processor, PromptBatch
from othink_mr1.rewards import Rewards
from othink_mr1.training import together
from othink_mr1.training.samples import Sample

Collate = Callable[[Sequence[int]], tuple[PromptBatch, list[Sample]]]


@dataclass
class MicroBatch:
    """B prompts and what is known of them."""

    prompts: PromptBatch
    samples: list[Sample]
    features: Features | None = None  # None where they have to be computed anew
    groups: list[Group] = field(default_factory=list)  # one a prompt, once they are sampled


class Explorer:
    """Samples and rewards completions.

    Args:
        args: the settings.
        processor: the model's.
        rewards: the reward functions.
        collate: encodes the train samples with the given indices.
        train_size: how many train samples there are.
        phase: marks and times a part of the step.
        count_tokens: is given the masks of what was computed.
    """

    def __init__(
        self,
        args: GRPODConfig,
        processor: Processor,
        rewards: Rewards,
        collate: Collate,
        train_size: int,
        phase: Callable[[str], AbstractContextManager[None]],
        count_tokens: Callable[..., None],
    ) -> None:
        self.args = args
        self.processor = processor
        self.rewards = rewards
        self.collate = collate
        self.train_size = train_size
        self.phase = phase
        self.count_tokens = count_tokens

    def explore(self, model: PreTrainedModel, batches: Sequence[MicroBatch], step: int) -> None:
        """Gives every prompt its group of `num_generations` completions, and each completion its rewards."""
        with self.phase("rollout"), _evaluating(model):
            made = [group for run in self._runs(batches) for group in self._sample(model, run, step)]
        with self.phase("reward"):
            self._reward(made)
        remaining = iter(made)
        for batch in batches:
            batch.groups = [next(remaining) for _ in batch.samples]

    def _runs(self, batches: Sequence[MicroBatch]) -> Iterator[Sequence[MicroBatch]]:
        """Micro-batches that are sampled at once."""
        limit, start, prompts = self.args.rollout_batch_size, 0, 0
        for index, batch in enumerate(batches):
            if limit and index > start and prompts + len(batch.samples) > limit:
                yield batches[start:index]
                start, prompts = index, 0
            prompts += len(batch.samples)
        yield batches[start:]

    def _sample(self, model: PreTrainedModel, batches: Sequence[MicroBatch], step: int) -> list[Group]:
        args, samples = self.args, [sample for batch in batches for sample in batch.samples]
        prompts = PromptBatch.join([batch.prompts for batch in batches], self.processor.tokenizer.pad_token_id)
        features = Features.join([batch.features or image_features(model, batch.prompts) for batch in batches])
        count = args.num_generations
        uniforms = noise(args.seed, step, [s["index"] for s in samples], count, args.max_completion_length)
        rollout = generate(model, self.processor, prompts, args.sampling, count, uniforms, features)
        self.count_tokens(prompts.attention_mask, rollout.completion_mask)
        texts = [completion.text for completion in completions(self.processor, rollout)]
        groups = []
        for number, sample in enumerate(samples):
            rows = slice(number * count, (number + 1) * count)
            ids, mask, ended = rollout.completion_ids[rows], rollout.completion_mask[rows], rollout.ended[rows]
            groups.append(Group(sample, ids, mask, ended, texts[rows]))
        return groups

    def _reward(self, groups: Sequence[Group]) -> None:
        count = self.args.num_generations
        texts = [text for group in groups for text in group.texts]
        rewards, total = self.rewards(texts, [group.sample for group in groups for _ in range(count)])
        device = self.args.device
        for number, group in enumerate(groups):
            rows = slice(number * count, (number + 1) * count)
            group.rewards, group.reward = rewards[rows].to(device), total[rows].to(device)

    def replace_equal(self, model: PreTrainedModel, batches: Sequence[MicroBatch], step: int) -> int:
        """Puts further prompts in the place of those whose rewards are all equal.

        After `max_resample_times` rounds the last ones stay, with advantage zero.

        Returns:
            How many prompts were sampled in vain, in all processes.
        """
        seen = {index for found in together.every(_indices(batches)) for index in found}
        replaced = 0
        for attempt in range(self.args.max_resample_times):
            equal = [(batch, i) for batch in batches for i, group in enumerate(batch.groups) if _is_equal(group)]
            wanted = together.every(len(equal))
            fresh = self._further(step, attempt, sum(wanted), seen)
            if not fresh:
                break
            # Every process has drawn the same, and takes its part.
            mine = fresh[sum(wanted[: self.args.process_index]) :][: len(equal)]
            for group, (batch, i) in zip(self._explored(model, mine, step), equal, strict=False):
                batch.groups[i], batch.samples[i] = group, group.sample
            for batch in {id(batch): batch for batch, _ in equal[: len(mine)]}.values():
                self._encode(model, batch)
            replaced += len(fresh)
        return replaced

    def _further(self, step: int, attempt: int, count: int, seen: set[int]) -> list[int]:
        """Up to `count` samples that no process has had in this step."""
        order = np.random.default_rng([self.args.seed, step, attempt]).permutation(self.train_size)
        chosen = [int(index) for index in order if int(index) not in seen][:count]
        seen.update(chosen)
        return chosen

    def _explored(self, model: PreTrainedModel, indices: Sequence[int], step: int) -> list[Group]:
        """The groups of some train samples."""
        size = self.args.train_batch_size
        batches = []
        for start in range(0, len(indices), size):
            prompts, samples = self.collate(indices[start : start + size])
            batches.append(MicroBatch(prompts.to(self.args.device), samples))
        if batches:
            self.explore(model, batches, step)
        return [group for batch in batches for group in batch.groups]

    def _encode(self, model: PreTrainedModel, batch: MicroBatch) -> None:
        """Makes the prompts of a micro-batch whose samples have changed."""
        prompts, _ = self.collate(_indices([batch]))
        batch.prompts = prompts.to(self.args.device)
        if batch.features is not None:
            batch.features = image_features(model, batch.prompts)


def _indices(batches: Sequence[MicroBatch]) -> list[int]:
    return [sample["index"] for batch in batches for sample in batch.samples]


def _is_equal(group: Group) -> bool:
    return not centre(group.reward[None]).any()


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    model.eval()
    yield
    model.train()
