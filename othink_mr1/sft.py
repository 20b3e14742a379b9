"""The supervised baseline: the likelihood of the right completion, with the same prompts and data order as GRPO."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from othink_mr1.errors import UserError
from othink_mr1.grpo.shared_prefix import PackedBatch, token_mean
from othink_mr1.models.passes import prompt_positions
from othink_mr1.training.config import VisionLanguageConfig
from othink_mr1.training.samples import Sample
from othink_mr1.training.trainer import VisionLanguageTrainer


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


def targets_of(sample: Sample, target: str) -> list[str]:
    """What the model should answer to `sample`: one text, or the sample's own `targets`.

    Raises:
        UserError: thinking is asked for and the sample has none.
    """
    if "targets" in sample:
        return sample["targets"]
    solution = sample["solution"].strip()
    if target == "answer":
        return [solution]
    if not sample["thinking"]:
        raise UserError(f"sample {sample['sample_id']}: it has no thinking text; set sft.target to answer")
    return [f"<think> {sample['thinking']} </think>\n{solution}"]


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
            ids, mask = ids[..., :room], mask[..., :room]
        logprobs, entropy = model(packed=PackedBatch(prompts, prompt_positions(self.bare(), prompts), ids, mask))
        self.count_tokens(prompts.attention_mask, mask)
        share = self.share(mask)
        self.note(entropy=(share * token_mean(entropy, mask)).item())
        return -share * token_mean(logprobs, mask)

    def _targets(self, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
        """Target tokens and their mask, both (B, G, C): right-padded, with empty rows where a sample has fewer."""
        rows = [[self.processor.answer_tokens(t) for t in targets_of(s, self.args.target)] for s in samples]
        groups, longest = max(map(len, rows)), max(len(row) for group in rows for row in group)
        ids = torch.full((len(rows), groups, longest), self.processor.tokenizer.pad_token_id)
        mask = torch.zeros(ids.shape, dtype=torch.long)
        for b, group in enumerate(rows):
            for g, row in enumerate(group):
                ids[b, g, : len(row)] = torch.tensor(row)
                mask[b, g, : len(row)] = 1
        return ids.to(self.args.device), mask.to(self.args.device)
