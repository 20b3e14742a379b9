"""GRPO and GRPO-D as a `transformers.Trainer`.

Optimiser, schedule, precision, accumulation, distribution, logging and resume are the Trainer's. Ours is a step's
experience (sample a group of completions for each prompt, reward them, compare them within their group) and, for each
micro-batch of it, the clipped objective with a KL weight that changes with the step. GRPO is the same with a constant
weight.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType
from transformers import PreTrainedModel, TrainerCallback

from othink_mr1.errors import UserError
from othink_mr1.grpo.advantages import centre, group_advantages
from othink_mr1.grpo.config import GRPODConfig
from othink_mr1.grpo.experience import (
    Experience,
    Group,
    RepeatedWindows,
    experience_of,
    load_experiences,
    save_experiences,
)
from othink_mr1.grpo.kl import AdaptiveKL
from othink_mr1.grpo.loss import grpo_loss
from othink_mr1.grpo.rollout import completions, generate, noise
from othink_mr1.grpo.shared_prefix import install, token_mean
from othink_mr1.models.passes import Features, image_features
from othink_mr1.models.processor import Processor, PromptBatch
from othink_mr1.rewards import call_reward, load_reward, reward_name
from othink_mr1.training import sharding, together
from othink_mr1.training.trainer import Sample, Validate, VisionLanguageTrainer
from othink_mr1.training.validation import greedy_accuracy

# step, and for each completion its sample, prompt, text, rewards and advantage
Record = Callable[[int, list[dict[str, Any]]], None]


class GRPODTrainer(VisionLanguageTrainer):
    """Trains `model` by GRPO-D. The reference policy is the model as it was given: a frozen copy of it, or with LoRA
    the model with its adapter switched off.

    Args:
        model: a Qwen-VL model, as `othink_mr1.models.loading.load_model` gives it.
        args: the settings.
        processor: the model's processor.
        train_samples: dicts with `image` (a picture), `problem`, `solution`, `task`; other keys reach the rewards.
        validation_samples: the same, for greedy accuracy every `eval_steps`.
        record: is given the completions of every logging step.
    """

    args: GRPODConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: GRPODConfig,
        processor: Processor,
        train_samples: Sequence[Sample],
        validation_samples: Sequence[Sample] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        validate: Validate = greedy_accuracy,
        record: Record | None = None,
    ) -> None:
        self.kl_schedule = args.kl
        self.rewards = [(reward_name(name), load_reward(name)) for name in args.reward_funcs]
        # beta is never above beta_max: where that is 0 no reference is needed at all.
        self._has_reference = args.beta_max > 0
        copied = self._has_reference and not args.lora_r
        self.reference = copy.deepcopy(model).eval().requires_grad_(False) if copied else None
        super().__init__(model, args, processor, train_samples, validation_samples, callbacks, validate)
        if self.reference is not None:
            install(self.reference)
            self.reference.to(args.device)
            if self.is_sharded:
                sharding.shard(self.reference, args.device)
        if args.dynamic_sample and args.world_size > 1:
            raise UserError(
                f"dynamic_sample works in one process, and this training has {args.world_size}: each would need "
                "another number of rounds; set dynamic_sample to false, or training.launch.processes to 1"
            )
        self.record = record
        self._incoming: list[dict[str, Any]] = []  # the step's micro-batches, as the data loader gives them
        self._experiences: list[Experience] = []
        self._position = 0  # of the micro-batch whose turn it is
        self.beta = 0.0  # of the present step
        self._kls: list[float] = []  # of the step's micro-batches

    # One step

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, None]:
        """The Trainer asks for all micro-batches of a step before it trains on the first."""
        self._incoming, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._position = 0
        return self._incoming, None

    def compute_loss(
        self, model: PreTrainedModel, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        if self._position == 0:
            self._begin_step()
        experience = self._experiences[self._position]
        self._position += 1
        mask = experience.batch.mask
        options = {
            "packed": experience.batch,
            "temperature": self.args.temperature,
            "chunk": self.args.logprob_chunk,
            "tokens_per_pass": self.args.tokens_per_pass,
        }
        if experience.ref_logprobs is None and self._has_reference:
            # A context of its own: autocast keeps the weights it has cast, and these have no gradient.
            with self.phase("reference"), self._as_reference(model) as reference, self._precision(), torch.no_grad():
                experience.ref_logprobs, _ = reference(features=experience.features, **options)
        features, experience.policy_features = experience.policy_features or experience.features, None
        logprobs, entropy = model(features=features, **options)
        if experience.old_logprobs is None:  # the policy that sampled is the present one: the ratio is 1
            experience.old_logprobs = logprobs.detach()
        loss, stats = grpo_loss(
            logprobs,
            experience.old_logprobs,
            experience.ref_logprobs,
            experience.advantages,
            mask,
            self.beta,
            self.args.epsilon,
            self.args.epsilon_high,
            self.args.loss_type,
            self.args.max_completion_length,
            self._tokens_of_a_micro_batch(),
        )
        share = self.share(mask)
        told = {name: (share * value).item() for name, value in stats.items()}
        self.note(beta=self.beta, entropy=(share * token_mean(entropy, mask)).item(), **told)
        self._steer(told.get("kl"))
        return loss

    @contextmanager
    def _as_reference(self, model: torch.nn.Module) -> Iterator[torch.nn.Module]:
        """The reference policy; `model` itself is it where its adapter is switched off."""
        if self.reference is not None:
            yield self.reference
        else:
            with self.accelerator.unwrap_model(model).disable_adapter():
                yield model

    def _begin_step(self) -> None:
        # s = 1 at the first update and t at the last (Eq. 3).
        self.beta = self.kl_schedule(self.state.global_step + 1, self.state.max_steps)
        self._kls.clear()
        if self.state.global_step % self.args.num_iterations == 0 or not self._experiences:
            with self._precision():
                self._experiences = self.inside(self._explore)

    def _tokens_of_a_micro_batch(self) -> float | None:
        """For the dapo loss: the mean number of completion tokens of this step's micro-batches, in all processes."""
        if self.args.loss_type != "dapo":
            return None
        tokens = torch.stack([experience.batch.mask.sum() for experience in self._experiences]).sum().float()
        return self.accelerator.reduce(tokens, "mean").item() / len(self._experiences)

    def _steer(self, kl: float | None) -> None:
        """Tells an adaptive controller, once a step, how far the policy is from the reference."""
        if not isinstance(self.kl_schedule, AdaptiveKL) or kl is None:
            return
        self._kls.append(kl)
        if len(self._kls) == len(self._experiences):
            mean = torch.tensor(self._kls, device=self.args.device).mean()
            self.kl_schedule.update(self.accelerator.reduce(mean, "mean").item())

    # Its experience

    def _explore(self, model: PreTrainedModel) -> list[Experience]:
        """Completions, rewards and advantages of the step's micro-batches."""
        batches = [batch["prompts"].to(self.args.device) for batch in self._incoming]
        samples = [batch["samples"] for batch in self._incoming]
        frozen = self.vision_is_frozen
        features = [image_features(model, batch) if frozen else None for batch in batches]
        if self._shares_trained_features:
            with torch.enable_grad():
                features[0] = image_features(model, batches[0])
        groups = self._groups(model, batches, samples, features)
        if self.args.dynamic_sample:
            self._replace_equal(model, batches, samples, features, groups)
        rewards = torch.stack([group.reward for row in groups for group in row])  # (prompts of the step, G)
        spread = None
        if self.args.scale_rewards == "batch":
            spread = self.accelerator.gather(rewards.flatten()).std()
        experiences = []
        for row, batch, kept in zip(groups, batches, features, strict=True):
            reward = torch.stack([group.reward for group in row])
            advantages = group_advantages(reward, self.args.scale_rewards, spread)  # Eq. 2
            experience = experience_of(row, batch, model, advantages)
            if frozen:
                experience.features = kept
            else:
                experience.policy_features = kept
            experiences.append(experience)
        self._tell(groups, experiences)
        return experiences

    @property
    def _shares_trained_features(self) -> bool:
        """Whether the rollout and the training pass of a step's first micro-batch share one pass of a trained tower.

        Only of the first: the graph of any later one would be in memory beside the training passes before it. And
        only where nothing wraps the model: a wrapper has to see every use of a weight.
        """
        args = self.args
        alone = self.accelerator.distributed_type == DistributedType.NO
        return alone and not (self.vision_is_frozen or args.dynamic_sample) and args.num_iterations == 1

    def _groups(
        self,
        model: PreTrainedModel,
        batches: Sequence[PromptBatch],
        samples: Sequence[list[Sample]],
        features: Sequence[Features | None],
    ) -> list[list[Group]]:
        """The completions of every micro-batch's prompts, with their rewards."""
        sizes = [len(batch) for batch in batches]
        flat = [sample for row in samples for sample in row]
        with self.phase("rollout"), _evaluating(model):
            made = [
                group
                for start, end in self._together(sizes)
                for group in self._sample(model, batches[start:end], flat[sum(sizes[:start]) :], features[start:end])
            ]
        with self.phase("reward"):
            self._reward(made)
        remaining = iter(made)
        return [[next(remaining) for _ in range(size)] for size in sizes]

    def _together(self, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Runs of micro-batches that are sampled at once: (first, one after the last)."""
        limit, start = self.args.rollout_batch_size, 0
        for index in range(1, len(sizes)):
            if limit and sum(sizes[start : index + 1]) > limit:
                yield start, index
                start = index
        yield start, len(sizes)

    def _sample(
        self,
        model: PreTrainedModel,
        batches: Sequence[PromptBatch],
        samples: Sequence[Sample],
        features: Sequence[Features | None],
    ) -> list[Group]:
        prompts = PromptBatch.join(batches, self.processor.tokenizer.pad_token_id)
        known = Features.join([f or image_features(model, b) for f, b in zip(features, batches, strict=True)])
        count, length, step = self.args.num_generations, self.args.max_completion_length, self.state.global_step
        uniforms = noise(self.args.seed, step, [s["index"] for s in samples[: len(prompts)]], count, length)
        rollout = generate(model, self.processor, prompts, self.args.sampling, count, uniforms, known)
        self.count_tokens(prompts.attention_mask, rollout.completion_mask)
        texts = [c.text for c in completions(self.processor, rollout)]
        nothing = torch.empty(0)
        return [
            Group(
                samples[i], rollout.completion_ids[rows], rollout.completion_mask[rows], rollout.ended[rows],
                texts[rows], nothing, nothing,
            )
            for i in range(len(prompts))
            for rows in [slice(i * count, (i + 1) * count)]
        ]  # fmt: skip

    def _reward(self, groups: Sequence[Group]) -> None:
        """Eq. 1: each completion's rewards, and their weighted sum."""
        count = self.args.num_generations
        texts = [text for group in groups for text in group.texts]
        repeated = [group.sample for group in groups for _ in range(count)]
        # Two names are the call's own, and `protocol` is a setting.
        names = sorted({key for sample in repeated for key in sample} - {"solution", "completions", "solutions"})
        columns = {key: [s.get(key) for s in repeated] for key in names}
        columns["protocol"] = self.args.reward_protocol  # type: ignore[assignment]
        solutions = [s["solution"] for s in repeated]
        found = [call_reward(name, function, texts, solutions, columns) for name, function in self.rewards]
        rewards = torch.tensor(found, device=self.args.device).T  # (completions, functions)
        silent = rewards.isnan().all(1)
        if silent.any():
            index = int(silent.nonzero()[0])
            raise UserError(
                f"sample {repeated[index].get('sample_id', repeated[index]['index'])}: no reward function gave its "
                f"completion a number ({', '.join(name for name, _ in self.rewards)})"
            )
        weights = torch.tensor(self.args.reward_weights, device=self.args.device)
        total = (rewards * weights).nansum(1)
        for number, group in enumerate(groups):
            rows = slice(number * count, (number + 1) * count)
            group.rewards, group.reward = rewards[rows], total[rows]

    def _replace_equal(
        self,
        model: PreTrainedModel,
        batches: list[PromptBatch],
        samples: list[list[Sample]],
        features: list[Features | None],
        groups: list[list[Group]],
    ) -> None:
        """Puts further prompts in the place of those whose rewards are all equal, which teach nothing (DAPO).

        Which ones depends on seed and step alone, not on the data loader, so a resumed run takes the same. After
        `max_resample_times` rounds the last ones stay, with advantage zero.
        """
        seen = {sample["index"] for row in samples for sample in row}
        for attempt in range(self.args.max_resample_times):
            equal = [
                (i, j) for i, row in enumerate(groups) for j, g in enumerate(row) if not centre(g.reward[None]).any()
            ]
            fresh = self._further(attempt, len(equal), seen)
            if not fresh:
                return
            self.note(resampled=len(fresh))
            for (i, j), index in zip(equal, fresh, strict=False):
                samples[i][j] = self.train_dataset[index]
            touched = sorted({i for i, _ in equal[: len(fresh)]})
            for i in touched:
                indices = [sample["index"] for sample in samples[i]]
                batch, samples[i] = self._collated(indices)
                batches[i] = batch.to(self.args.device)
                features[i] = image_features(model, batches[i]) if self.vision_is_frozen else None
            made = self._groups(
                model, [batches[i] for i in touched], [samples[i] for i in touched], [features[i] for i in touched]
            )
            for i, row in zip(touched, made, strict=True):
                groups[i] = row

    def _further(self, attempt: int, count: int, seen: set[int]) -> list[int]:
        """Up to `count` samples that this step has not seen."""
        words = [self.args.seed, self.state.global_step, attempt, self.args.process_index]
        order = np.random.default_rng(words).permutation(len(self.train_dataset))
        chosen = [int(index) for index in order if int(index) not in seen][:count]
        seen.update(chosen)
        return chosen

    def _collated(self, indices: Sequence[int]) -> tuple[PromptBatch, list[Sample]]:
        collated = self.data_collator([self.train_dataset[index] for index in indices])
        return collated["prompts"], collated["samples"]

    # What is told of it

    def _tell(self, groups: list[list[Group]], experiences: list[Experience]) -> None:
        flat = [group for row in groups for group in row]
        gathered = self.accelerator.gather  # every process has as many groups
        for number, (name, _) in enumerate(self.rewards):
            values = gathered(torch.cat([group.rewards[:, number] for group in flat]))
            known = values[~values.isnan()]
            if len(known):
                self.note(**{f"rewards/{name}/mean": known.mean().item(), f"rewards/{name}/std": _std(known)})
        reward = gathered(torch.stack([group.reward for group in flat]))
        std = centre(reward).std(1)
        lengths = gathered(torch.cat([group.mask.sum(1) for group in flat]).float())
        ended = gathered(torch.cat([group.ended for group in flat]))
        self.note(
            reward=reward.mean().item(),
            reward_std=std.mean().item(),
            frac_reward_zero_std=(std == 0).float().mean().item(),
            **{
                "completions/mean_length": lengths.mean().item(),
                "completions/min_length": lengths.min().item(),
                "completions/max_length": lengths.max().item(),
                "completions/clipped_ratio": (~ended).float().mean().item(),
            },
        )
        if ended.any():
            self.note(**{"completions/mean_terminated_length": lengths[ended].mean().item()})
        if self.record is not None and self._step_is_logged():
            rows = [row for found in together.every(self._rows(flat, experiences)) for row in found]
            if self.is_world_process_zero():
                self.record(self.state.global_step + 1, rows)

    def _step_is_logged(self) -> bool:
        step = self.state.global_step + 1
        if self.args.logging_strategy != "steps":
            return False
        return step % self.state.logging_steps == 0 or (step == 1 and self.args.logging_first_step)

    def _rows(self, groups: Sequence[Group], experiences: Sequence[Experience]) -> list[dict[str, Any]]:
        advantages = torch.cat([experience.advantages for experience in experiences])
        return [
            {
                "sample_id": group.sample.get("sample_id", str(group.sample["index"])),
                "index": group.sample["index"],
                "task": group.sample.get("task", ""),
                "prompt": group.sample.get("prompt", group.sample["problem"]),
                "solution": group.sample["solution"],
                "completion": text,
                **{name: _known(rewards[i].item()) for i, (name, _) in enumerate(self.rewards)},
                "reward": reward.item(),
                "advantage": advantage.item(),
            }
            for group, row in zip(groups, advantages, strict=True)
            for text, rewards, reward, advantage in zip(group.texts, group.rewards, group.reward, row, strict=True)
        ]

    # What a checkpoint holds beside the Trainer's own

    def _get_train_sampler(self, *args: Any) -> torch.utils.data.Sampler | None:
        sampler = super()._get_train_sampler(*args)
        times = self.args.num_iterations
        if times == 1 or sampler is None:
            return sampler
        window = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        if len(sampler) < window:
            raise UserError(
                f"num_iterations above 1 needs {window} train samples for one step; there are {len(sampler)}"
            )
        return RepeatedWindows(sampler, window, times)

    def extra_state(self) -> dict[str, Any]:
        state = super().extra_state()
        return state | ({"beta": self.kl_schedule.beta} if isinstance(self.kl_schedule, AdaptiveKL) else {})

    def take_extra_state(self, state: dict[str, Any]) -> None:
        super().take_extra_state(state)
        if isinstance(self.kl_schedule, AdaptiveKL):
            self.kl_schedule.beta = state["beta"]

    def save_more(self, folder: Path) -> None:
        if self.state.global_step % self.args.num_iterations:
            save_experiences(self._experiences, folder / self._experience_file)

    def load_more(self, folder: Path) -> None:
        file = folder / self._experience_file
        if file.exists():
            self._experiences = load_experiences(file, self._collated, self.bare(), self.args.device)
            if self.vision_is_frozen:
                for experience in self._experiences:
                    look = functools.partial(image_features, prompts=experience.batch.prompts)
                    with self._precision():
                        experience.features = self.inside(look)

    @property
    def _experience_file(self) -> str:
        return f"experience-{self.args.process_index}.safetensors"


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    model.eval()
    yield
    model.train()


def _known(reward: float) -> float | None:
    return None if math.isnan(reward) else reward


def _std(values: torch.Tensor) -> float:
    return values.std().item() if len(values) > 1 else 0.0
