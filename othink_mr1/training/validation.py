"""Greedy accuracy on the validation split while a model trains (Figures 1 and 5); the test split is not looked at."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from othink_mr1.answers import format_ok, is_correct
from othink_mr1.grpo.rollout import greedy
from othink_mr1.models.processor import Processor
from othink_mr1.prompts import test_prompt


def greedy_accuracy(
    model: PreTrainedModel, processor: Processor, samples: Sequence[dict[str, Any]], size: int, max_new_tokens: int
) -> dict[str, float]:
    """The shares of right answers, by the strict reading, and of well-formed completions.

    Args:
        samples: dicts with `image`, `problem`, `solution` and `task`.
        size: how many are answered at a time.
    """
    correct = formatted = 0
    for start in range(0, len(samples), size):
        batch = [samples[i] for i in range(start, min(start + size, len(samples)))]
        pictures = [sample["image"] for sample in batch]
        prompts = [test_prompt(sample["task"], sample["problem"]) for sample in batch]
        done = greedy(model, processor, pictures, prompts, max_new_tokens)
        for sample, completion in zip(batch, done, strict=True):
            correct += is_correct(completion.text, sample["solution"], sample["task"], "strict")
            formatted += format_ok(completion.text)
    return {"eval_accuracy": correct / len(samples), "eval_format": formatted / len(samples)}
