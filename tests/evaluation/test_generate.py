"""Batches sorted by size give the completions that one prompt at a time gives, in the order of the file."""

import json
from pathlib import Path

import pytest

from othink_mr1.data.reading import read_split
from othink_mr1.evaluation.generate import by_size, complete, prompts_of
from othink_mr1.evaluation.journal import Journal
from othink_mr1.grpo.rollout import Completion, greedy
from othink_mr1.models.loading import load_model, load_processor
from tests.grpo import families


def test_order_is_longest_first_and_stable() -> None:
    sizes = [(10, 10), (20, 20), (10, 10), (10, 10)]
    assert by_size(sizes, ["aa", "a", "aaa", "aa"]) == [1, 2, 0, 3]


def test_completions_come_in_the_order_of_the_file(project: Path, model_folder: Path) -> None:
    model, processor = load_model(model_folder), load_processor(model_folder)
    samples = read_split(project / "data" / "geometry", "test")[:7]
    prompts = prompts_of(samples, "geometry", "reasoning")
    done: list[int] = []
    found = complete(model, processor, samples, prompts, 5, 3, done.append)
    alone = [greedy(model, processor, [samples[i]["image"]], [prompts[i]], 5)[0] for i in range(7)]
    assert found == alone
    assert done == [3, 6, 7]
    assert all(completion.token_count <= 5 for completion in found)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_completions_are_those_of_generate_in_any_batch(family: str, seed: int) -> None:
    processor = families.processor()
    model = families.model(family, processor, seed=seed)
    words = ["how", "many", "red", "items", "are", "there", "in", "the", "image"]
    prompts = [" ".join((words * 9)[: 1 + 11 * i % 64]) for i in range(9)]
    samples = [{"image": picture} for i in range(9) for picture in families.pictures(1, width=32 + 32 * (i % 3))]
    batch = processor.encode(prompts, [sample["image"] for sample in samples])
    inputs = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    ids = model.generate(**inputs, max_new_tokens=24, do_sample=False, suppress_tokens=processor.forbidden_tokens())
    end = processor.tokenizer.eos_token_id
    rows = [row[: row.index(end) + 1] if end in row else row for row in ids[:, batch.input_ids.shape[1] :].tolist()]
    expected = [Completion(processor.decode(row), len(row), end not in row) for row in rows]
    assert len({completion.text for completion in expected}) > 1
    for size in (1, 4, 9):
        assert complete(model, processor, samples, prompts, 24, size) == expected  # type: ignore[arg-type]


def test_batches_in_the_journal_are_not_answered_again(project: Path, model_folder: Path, tmp_path: Path) -> None:
    model, processor = load_model(model_folder), load_processor(model_folder)
    samples = read_split(project / "data" / "geometry", "test")[:5]
    prompts = prompts_of(samples, "geometry", "reasoning")
    path = tmp_path / "kept" / "completions.jsonl"
    whole = complete(model, processor, samples, prompts, 5, 2, journal=Journal(path), name="a")
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    path.write_bytes(lines[0].replace(json.dumps(whole[0].text).encode(), b'"kept"') + lines[1][:-1])
    again = complete(model, processor, samples, prompts, 5, 2, journal=Journal(path), name="a")
    assert [i for i in range(5) if again[i] != whole[i]] == [i for i in range(5) if again[i].text == "kept"] != []
    assert path.read_bytes().splitlines(keepends=True)[1:] == lines[1:]
    assert Journal(path).batch("b/0") is None


@pytest.mark.parametrize("rest", [b"", b'{"batch": "x", "rows": [["a', b'{"batch": "x", "rows": [[1]]}\n', b"\x00" * 9])
def test_what_follows_the_last_whole_line_is_cut_off(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "completions.jsonl"
    found = [Completion("√ \n", 3, False), Completion("", 1, True)]
    Journal(path).add("first", found)
    before = path.read_bytes()
    path.write_bytes(before + rest)
    journal = Journal(path)
    assert journal.batch("first") == found
    assert journal.batch("x") is None
    assert path.read_bytes() == before


def test_the_direct_prompt_asks_for_no_thinking(project: Path) -> None:
    samples = read_split(project / "data" / "counting", "test")[:1]
    assert "<think>" in prompts_of(samples, "counting", "reasoning")[0]
    assert "<think>" not in prompts_of(samples, "counting", "direct")[0]
