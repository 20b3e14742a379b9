"""GRPO and GRPO-D as a `transformers.Trainer`.

Optimiser, schedule, precision, accumulation, distribution, logging and resume are the Trainer's. Ours is one
micro-batch: sample a group of completions for each prompt, reward them, compare them within their group, and take
the clipped objective with a KL weight that changes with the step. GRPO is the same with a constant weight.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback

from othink_mr1.grpo.advantages import centre, group_advantages
from othink_mr1.grpo.config import GRPODConfig
from othink_mr1.grpo.loss import grpo_loss
from othink_mr1.grpo.rollout import Rollout, completions, generate, noise
from othink_mr1.grpo.shared_prefix import PackedBatch, install, token_mean
from othink_mr1.models.processor import Processor, PromptBatch
from othink_mr1.rewards import call_reward, load_reward, reward_name
from othink_mr1.training.trainer import Sample, Validate, VisionLanguageTrainer
from othink_mr1.training.validation import greedy_accuracy


class GRPODTrainer(VisionLanguageTrainer):
    """Trains `model` by GRPO-D; the reference policy is a frozen copy of it as it was given.

    Args:
        model: a Qwen-VL model, as `othink_mr1.models.loading.load_model` gives it.
        args: the settings.
        processor: the model's processor.
        train_samples: dicts with `image` (a picture), `problem`, `solution`, `task`; other keys reach the rewards.
        validation_samples: the same, for greedy accuracy every `eval_steps`.
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
    ) -> None:
        self.kl_schedule = args.kl
        self.rewards = [(reward_name(name), load_reward(name)) for name in args.reward_funcs]
        # beta is never above beta_max: where that is 0 no reference is needed at all.
        self.reference = copy.deepcopy(model).eval().requires_grad_(False) if args.beta_max > 0 else None
        super().__init__(model, args, processor, train_samples, validation_samples, callbacks, validate)
        if self.reference is not None:
            install(self.reference)
            self.reference.to(args.device)

    def compute_loss(
        self, model: PreTrainedModel, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        prompts: PromptBatch = inputs["prompts"].to(self.args.device)
        samples: list[Sample] = inputs["samples"]
        groups = self.args.num_generations

        rollout = self._sample(model, prompts, samples)
        rewards = self._reward(rollout, samples)  # (B, G)
        advantages = group_advantages(rewards)  # Eq. 2

        shape = (len(samples), groups, -1)
        batch = PackedBatch(prompts, rollout.position_ids, rollout.completion_ids.view(shape))
        mask = rollout.completion_mask.view(shape)
        options = {"temperature": self.args.temperature, "chunk": self.args.logprob_chunk}
        logprobs, entropy = model(packed=batch, **options)
        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference, _entropy = self.reference(packed=batch, **options)

        # s = 1 at the first update and t at the last (Eq. 3).
        beta = self.kl_schedule(self.state.global_step + 1, self.state.max_steps)
        # One update a rollout: the policy that sampled is the present one, so the ratio is 1 and the clip rests.
        loss, stats = grpo_loss(logprobs, logprobs.detach(), reference, advantages, mask, beta, self.args.epsilon)
        self.note(beta=beta, entropy=token_mean(entropy, mask).item(), **{k: v.item() for k, v in stats.items()})
        return loss

    def _sample(self, model: PreTrainedModel, prompts: PromptBatch, samples: list[Sample]) -> Rollout:
        bare = self.accelerator.unwrap_model(model)
        groups, length = self.args.num_generations, self.args.max_completion_length
        step = self.state.global_step
        uniforms = noise(self.args.seed, step, [s["index"] for s in samples], groups, length)
        bare.eval()
        rollout = generate(bare, self.processor, prompts, self.args.sampling, groups, uniforms)
        bare.train()
        lengths = rollout.completion_mask.sum(1)
        self.count_tokens(prompts.attention_mask, rollout.completion_mask)
        self.note(
            **{
                "completions/mean_length": lengths.float().mean().item(),
                "completions/clipped_ratio": (~rollout.ended).float().mean().item(),
            },
        )
        return rollout

    def _reward(self, rollout: Rollout, samples: list[Sample]) -> torch.Tensor:
        """Eq. 1: the weighted sum of the rewards, (B, G)."""
        groups = self.args.num_generations
        texts = [c.text for c in completions(self.processor, rollout)]
        repeated = [sample for sample in samples for _ in range(groups)]
        columns = {key: [s[key] for s in repeated] for key in repeated[0] if key != "solution"}
        columns["protocol"] = self.args.reward_protocol  # type: ignore[assignment]
        solutions = [s["solution"] for s in repeated]
        total = torch.zeros(len(texts), device=self.args.device)
        for (name, function), weight in zip(self.rewards, self.args.reward_weights, strict=True):
            values = torch.tensor(call_reward(name, function, texts, solutions, columns), device=self.args.device)
            self.note(**{f"rewards/{name}/mean": values.mean().item()})
            total += weight * values
        grouped = total.view(-1, groups)
        std = centre(grouped).std(1)
        self.note(
            reward=grouped.mean().item(),
            reward_std=std.mean().item(),
            frac_reward_zero_std=(std == 0).float().mean().item(),
        )
        return grouped
