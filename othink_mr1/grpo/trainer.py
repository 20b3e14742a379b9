"""GRPO and GRPO-D as a `transformers.Trainer`.

Optimiser, schedule, precision, accumulation, distribution, logging and resume are the Trainer's. Ours is a step's
experience (sample a group of completions for each prompt, reward them, compare them within their group) and, for each
micro-batch of it, the clipped objective with a KL weight that changes with the step. GRPO is the same with a constant
weight.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from transformers import PreTrainedModel, TrainerCallback

from othink_mr1.errors import UserError
from othink_mr1.grpo.advantages import group_advantages
from othink_mr1.grpo.config import GRPODConfig
from othink_mr1.grpo.experience import (
    Experience,
    Group,
    RepeatedWindows,
    experience_of,
    load_experiences,
    save_experiences,
)
from othink_mr1.grpo.exploration import Explorer, MicroBatch
from othink_mr1.grpo.kl import AdaptiveKL
from othink_mr1.grpo.loss import grpo_loss
from othink_mr1.grpo.metrics import Record, metrics_of, rows_of
from othink_mr1.grpo.shared_prefix import install, token_mean
from othink_mr1.models.passes import image_features
from othink_mr1.models.processor import Processor, PromptBatch
from othink_mr1.rewards import Reward, Rewards
from othink_mr1.training import together
from othink_mr1.training.samples import Sample
from othink_mr1.training.trainer import Validate, VisionLanguageTrainer
from othink_mr1.training.validation import greedy_accuracy


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
        reward_funcs: functions as `othink_mr1.rewards` describes them, or their names; None takes `args.reward_funcs`.
            `args.reward_weights` has one weight for each.
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
        reward_funcs: Sequence[str | Reward] | None = None,
    ) -> None:
        self.kl_schedule = args.kl
        rewards = Rewards(reward_funcs or args.reward_funcs, args.reward_weights, args.reward_protocol)
        # beta is never above beta_max: where that is 0 no reference is needed at all.
        self._has_reference = args.beta_max > 0
        copied = self._has_reference and not args.lora_r
        self.reference = copy.deepcopy(model).eval().requires_grad_(False) if copied else None
        super().__init__(model, args, processor, train_samples, validation_samples, callbacks, validate)
        if self.reference is not None:
            install(self.reference)
            self.place(self.reference)
        if args.dynamic_sample and self.is_sharded:
            raise UserError(
                "dynamic_sample does not work with sharded weights: all processes have to make the same passes, and "
                "each needs another number of them; set dynamic_sample to false, or training.launch.strategy to ddp"
            )
        size = len(self.train_dataset)
        self.explorer = Explorer(args, processor, rewards, self._collated, size, self.phase, self.count_tokens)
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
        # s = 1 at the first update and t at the last (Eq. 3).
        self.beta = self.kl_schedule(self.state.global_step + 1, self.state.max_steps)
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
        step = self.state.global_step
        batches = [MicroBatch(batch["prompts"].to(self.args.device), batch["samples"]) for batch in self._incoming]
        if self.vision_is_frozen:
            for batch in batches:
                batch.features = image_features(model, batch.prompts)
        elif self._shares_trained_features:
            with torch.enable_grad():
                batches[0].features = image_features(model, batches[0].prompts)
        self.explorer.explore(model, batches, step)
        if self.args.dynamic_sample:
            self.note(resampled=self.explorer.replace_equal(model, batches, step))
        groups = [group for batch in batches for group in batch.groups]
        spread = None
        if self.args.scale_rewards == "batch":
            spread = self.accelerator.gather(torch.cat([group.reward for group in groups])).std()
        experiences = []
        for batch in batches:
            reward = torch.stack([group.reward for group in batch.groups])
            advantages = group_advantages(reward, self.args.scale_rewards, spread)  # Eq. 2
            experience = experience_of(batch.groups, batch.prompts, model, advantages)
            if self.vision_is_frozen:
                experience.features = batch.features
            else:
                experience.policy_features = batch.features
            experiences.append(experience)
        self._tell(groups, torch.cat([experience.advantages for experience in experiences]))
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

    def _collated(self, indices: Sequence[int]) -> tuple[PromptBatch, list[Sample]]:
        collated = self.data_collator([self.train_dataset[index] for index in indices])
        return collated["prompts"], collated["samples"]

    def _tell(self, groups: Sequence[Group], advantages: torch.Tensor) -> None:
        names = self.explorer.rewards.names
        self.note(**metrics_of(groups, names, self.accelerator.gather))
        if self.record is not None and self._step_is_logged():
            told = together.every(rows_of(groups, advantages, names))
            if self.is_world_process_zero():
                self.record(self.state.global_step + 1, [row for rows in told for row in rows])

    def _step_is_logged(self) -> bool:
        step = self.state.global_step + 1
        if self.args.logging_strategy != "steps":
            return False
        return step % self.state.logging_steps == 0 or (step == 1 and self.args.logging_first_step)

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
