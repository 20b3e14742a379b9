"""The samples of a training, and batches of them: pictures and questions."""

from collections.abc import Sequence
from typing import Any

import torch

from othink_mr1.errors import UserError
from othink_mr1.models.processor import Processor
from othink_mr1.prompts import train_prompt

Sample = dict[str, Any]
# One of each; the base model's samples have a prompt and targets of their own.
_NEEDED = (("image",), ("problem", "prompt"), ("solution", "targets"))


class Numbered(torch.utils.data.Dataset[Sample]):
    """Samples with their place in the dataset as `index`, which seeds their sampling noise.

    Raises:
        UserError: there are none; or, once it is asked for, one lacks what training needs.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        if not len(samples):
            raise UserError("train_samples: there are none; at least one is needed")
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        for names in _NEEDED:
            if all(sample.get(name) is None for name in names):
                which = sample.get("sample_id", index)
                raise UserError(f"sample {which}: it has no {names[0]}; image, problem and solution are needed")
        return {**sample, "index": index}


class Collator:
    """Encodes the prompts of a batch; everything else of a sample but its picture goes along as it is."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def __call__(self, samples: list[Sample]) -> dict[str, Any]:
        texts = [sample.get("prompt") or train_prompt(sample["problem"]) for sample in samples]
        prompts = self.processor.encode(texts, [sample["image"] for sample in samples])
        return {"prompts": prompts, "samples": [{k: v for k, v in s.items() if k != "image"} for s in samples]}
