"""The supervised baseline: what it learns from, held against transformers' own loss, in GRPO-D's order and words."""

from pathlib import Path
from typing import Any

import pytest
import torch

from othink_mr1.errors import UserError
from othink_mr1.models.loading import load_model
from othink_mr1.models.processor import Processor
from othink_mr1.prompts import train_prompt
from othink_mr1.sft import SFTTrainer, targets_of
from tests.grpo.families import processor
from tests.training.test_training import SAMPLES, base, trainer_of

__all__ = ["base"]  # the fixture


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sft(base: Path, **changes: Any) -> SFTTrainer:
    return trainer_of("sft", base, Path("ck"), **changes)([])


def transformers_loss(base: Path, tools: Processor, sample: dict[str, Any], target: str) -> tuple[float, int]:
    """transformers' own loss of one sample whose labels are its target alone, and the number of those."""
    prompts = tools.encode([train_prompt(sample["problem"])], [sample["image"]])
    answer = torch.tensor([tools.answer_tokens(target)])
    ids = torch.cat([prompts.input_ids, answer], 1)
    labels = ids.clone()
    labels[:, : prompts.input_ids.shape[1]] = -100
    with torch.no_grad():
        loss = load_model(base, device="cpu")(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=torch.cat([prompts.mm_token_type_ids, torch.zeros_like(answer)], 1),
            pixel_values=prompts.pixel_values,
            image_grid_thw=prompts.image_grid_thw,
            labels=labels,
        ).loss
    return loss.item(), answer.shape[1]


@pytest.mark.parametrize("target", ["answer", "thinking"])
def test_the_loss_is_that_of_the_completions_tokens_alone(base: Path, target: str) -> None:
    trainer, tools = sft(base, target=target), processor()
    texts = [targets_of(sample, target)[0] for sample in SAMPLES[:2]]
    losses = [transformers_loss(base, tools, sample, text) for sample, text in zip(SAMPLES, texts, strict=False)]
    expected = sum(loss * count for loss, count in losses) / sum(count for _, count in losses)
    inputs = trainer.data_collator([{**sample, "index": 0} for sample in SAMPLES[:2]])
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(expected, rel=1e-5)


def test_targets_are_the_papers_or_with_thinking() -> None:
    sample = {**SAMPLES[1], "sample_id": "7"}
    assert targets_of(sample, "answer") == ["<answer> 2 </answer>"]
    assert targets_of(sample, "thinking") == ["<think> 1 2 3 </think>\n<answer> 2 </answer>"]
    with pytest.raises(UserError, match=r"sample 7: it has no thinking text; set sft\.target to answer"):
        targets_of({**sample, "thinking": None}, "thinking")


def test_a_completion_is_cut_where_prompt_and_completion_are_too_long(base: Path) -> None:
    longest = sft(base).data_collator([{**SAMPLES[0], "index": 0}])["prompts"].input_ids.shape[1] + 2
    trainer = sft(base, max_length=longest)
    trainer.train()
    whole = sft(base, save_strategy="no")
    whole.train()
    assert trainer.state.num_input_tokens_seen < whole.state.num_input_tokens_seen


def test_data_come_in_the_same_order_and_words_as_in_grpo_d(base: Path) -> None:
    seen: dict[str, list[tuple[int, str]]] = {}
    for kind in ("sft", "grpo_d"):
        trainer = trainer_of(kind, base, Path(f"ck-{kind}"), max_steps=6, save_strategy="no", seed=3)([])
        tools, order = processor(), []
        for batch in trainer.get_train_dataloader():
            for row, sample in zip(batch["prompts"].input_ids, batch["samples"], strict=True):
                order.append((sample["index"], tools.decode(row)))
        seen[kind] = order
    assert seen["sft"] == seen["grpo_d"]
    assert [index for index, _ in seen["sft"]] != sorted(range(len(SAMPLES)))
