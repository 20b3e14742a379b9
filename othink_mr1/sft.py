"""The supervised baseline: the likelihood of the right completion, with the same prompts and data order as GRPO."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from othink_mr1.errors import UserError
from othink_mr1.grpo.rollout import prompt_positions
from othink_mr1.grpo.shared_prefix import PackedBatch, token_mean
from othink_mr1.training.config import VisionLanguageConfig
from othink_mr1.training.trainer import Sample, VisionLanguageTrainer


@dataclass
class SFTConfig(VisionLanguageConfig):
    """The shared settings and the target of the completion."""

    target: str = field(
        default="answer", metadata={"help": "answer: `<answer> X </answer>` (the paper's); thinking: with its thinking"}
    )
    max_length: int | None = field(default=None, metadata={"help": "longest prompt and completion, in tokens"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in ("answer", "thinking"):
            raise ValueError(f"target is {self.target!r}; it should be answer or thinking")


def target_text(sample: Sample, target: str) -> str:
    """What the model should answer to `sample`; a sample may bring its own `target`.

    Raises:
        UserError: thinking is asked for and the sample has none.
    """
    if "target" in sample:
        return sample["target"]
    solution = sample["solution"].strip()
    if target == "answer":
        return solution
    if not sample["thinking"]:
        raise UserError(f"sample {sample['sample_id']}: it has no thinking text; set sft.target to answer")
    return f"<think> {sample['thinking']} </think>\n{solution}"


class SFTTrainer(VisionLanguageTrainer):
    """Cross-entropy on the completion's tokens, its end token included."""

    args: SFTConfig

    def compute_loss(
        self, model: PreTrainedModel, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        prompts = inputs["prompts"].to(self.args.device)
        ids, mask = self._targets(inputs["samples"])
        if self.args.max_length is not None:
            room = max(1, self.args.max_length - prompts.input_ids.shape[1])
            ids, mask = ids[:, :room], mask[:, :room]
        bare = self.accelerator.unwrap_model(model)
        batch = PackedBatch(prompts, prompt_positions(bare, prompts), ids[:, None])
        logprobs, entropy = model(packed=batch)
        mask = mask[:, None]
        self.count_tokens(prompts.attention_mask, mask)
        self.note(entropy=token_mean(entropy, mask).item())
        return -token_mean(logprobs, mask)

    def _targets(self, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
        """Target tokens and their mask, both (B, C), right-padded."""
        rows = [self.processor.answer_tokens(target_text(s, self.args.target)) for s in samples]
        longest = max(map(len, rows))
        pad = self.processor.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=self.args.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.args.device)
        return ids, mask
