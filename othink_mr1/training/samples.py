"""The samples of a training, and batches of them: pictures and questions."""

from collections.abc import Sequence
from typing import Any

import torch

from othink_mr1.models.processor import Processor
from othink_mr1.prompts import train_prompt

Sample = dict[str, Any]


class Numbered(torch.utils.data.Dataset[Sample]):
    """Samples with their place in the dataset as `index`, which seeds their sampling noise."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return {**self.samples[index], "index": index}


class Collator:
    """Encodes the prompts of a batch; everything else of a sample but its picture goes along as it is."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def __call__(self, samples: list[Sample]) -> dict[str, Any]:
        texts = [sample.get("prompt") or train_prompt(sample["problem"]) for sample in samples]
        prompts = self.processor.encode(texts, [sample["image"] for sample in samples])
        return {"prompts": prompts, "samples": [{k: v for k, v in s.items() if k != "image"} for s in samples]}
