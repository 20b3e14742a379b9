"""Greedy completions of a whole split."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from othink_mr1.data.reading import Samples
from othink_mr1.evaluation.journal import Journal
from othink_mr1.prompts import direct_prompt, test_prompt

if TYPE_CHECKING:  # torch and transformers are for the one who has a model
    from transformers import PreTrainedModel

    from othink_mr1.grpo.rollout import Completion
    from othink_mr1.models.processor import Processor


def prompts_of(samples: Samples, task: str, kind: str) -> list[str]:
    """The text of each sample's user turn: R1-V's test prompt, or a plain question for the number ("direct")."""
    questions = samples.column("problem")
    if kind == "direct":
        return [direct_prompt(question) for question in questions]
    return [test_prompt(task, question) for question in questions]


def complete(
    model: "PreTrainedModel",
    processor: "Processor",
    samples: Samples,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
    journal: Journal | None = None,
    name: str = "",
) -> "list[Completion]":
    """The greedy completion of every sample, in the order of `samples`.

    Batches hold prompts of like length, so that little of them is padding; the longest come first, so that a batch
    which does not fit into memory fails at once and the time left is never told too short.

    Args:
        prompts: one text for each sample.
        max_new_tokens: where a completion is cut off.
        progress: is called with the number of samples done.
        journal: batches that it holds are not answered again, and the others are put into it.
        name: of these prompts in the journal.
    """
    from othink_mr1.grpo.rollout import greedy

    order = by_size([samples[i]["image"].size for i in range(len(samples))], prompts)
    found: dict[int, Completion] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        answers = journal.batch(f"{name}/{start}") if journal else None
        if answers is None:
            pictures, texts = [samples[i]["image"] for i in batch], [prompts[i] for i in batch]
            answers = greedy(model, processor, pictures, texts, max_new_tokens)
            if journal:
                journal.add(f"{name}/{start}", answers)
        found.update(zip(batch, answers, strict=True))
        progress(len(found))
    return [found[i] for i in range(len(order))]


def by_size(sizes: Sequence[tuple[int, int]], prompts: Sequence[str]) -> list[int]:
    """Indices by falling number of prompt tokens, as far as picture (width, height) and text foretell it."""
    return sorted(range(len(prompts)), key=lambda i: (-sizes[i][0] * sizes[i][1], -len(prompts[i]), i))
