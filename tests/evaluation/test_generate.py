"""Batches sorted by size give the completions that one prompt at a time gives, in the order of the file."""

from pathlib import Path

from othink_mr1.data.reading import read_split
from othink_mr1.evaluation.generate import by_size, complete, prompts_of
from othink_mr1.grpo.rollout import greedy
from othink_mr1.models.loading import load_model, load_processor


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


def test_the_direct_prompt_asks_for_no_thinking(project: Path) -> None:
    samples = read_split(project / "data" / "counting", "test")[:1]
    assert "<think>" in prompts_of(samples, "counting", "reasoning")[0]
    assert "<think>" not in prompts_of(samples, "counting", "direct")[0]
