"""Completions are those of transformers' generate; sampling depends on nothing but its own coordinates."""

import numpy as np
import pytest
import torch

from othink_mr1.grpo import rollout as rollout_module
from othink_mr1.grpo.decoding import GroupCache
from othink_mr1.grpo.rollout import Sampling, choose, completions, generate, greedy, noise
from othink_mr1.grpo.shared_prefix import PackedBatch, install
from othink_mr1.models.processor import PromptBatch
from tests.grpo.families import FAMILIES, QUESTIONS, model, pictures, processor


@pytest.fixture(scope="module")
def tools():
    return processor()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_generate_token_for_token(tools, family: str) -> None:
    net = model(family, tools)
    prompts = tools.encode(QUESTIONS, [*pictures(2), *pictures(1, width=64)])
    rollout = generate(net, tools, prompts, Sampling(20, temperature=0.0))
    inputs = {name: getattr(prompts, name) for name in prompts.__dataclass_fields__}
    expected = net.generate(
        **inputs,
        max_new_tokens=20,
        do_sample=False,
        suppress_tokens=tools.forbidden_tokens(),
        eos_token_id=tools.tokenizer.eos_token_id,
        pad_token_id=tools.tokenizer.pad_token_id,
    )[:, prompts.input_ids.shape[1] :]
    width = rollout.completion_ids.shape[1]
    kept = rollout.completion_mask.bool()
    assert torch.equal(rollout.completion_ids[kept], expected[:, :width][kept])


def test_a_completion_is_the_same_in_any_batch(tools) -> None:
    net = model("qwen2_vl", tools)
    shots = pictures(3)
    sampling = Sampling(12)
    together = generate(net, tools, tools.encode(QUESTIONS, shots), sampling, 4, noise(5, 2, [7, 8, 9], 4, 12))
    alone = generate(net, tools, tools.encode(QUESTIONS[1:2], shots[1:2]), sampling, 4, noise(5, 2, [8], 4, 12))
    expected = [c.text for c in completions(tools, together)][4:8]
    assert [c.text for c in completions(tools, alone)] == expected
    assert len(set(expected)) > 1


def test_noise_is_a_function_of_its_coordinates() -> None:
    whole = noise(3, 1, [10, 11], 4, 9)
    assert torch.equal(noise(3, 1, [11], 4, 9), whole[4:])
    assert torch.equal(noise(3, 1, [10], 4, 5), whole[:4, :5])
    assert not torch.equal(noise(3, 2, [10], 4, 9), whole[:4])
    assert not torch.equal(noise(4, 1, [10], 4, 9), whole[:4])


def test_sampling_follows_the_distribution() -> None:
    probs = torch.tensor([0.5, 0.2, 0.2, 0.1, 0.0])
    draws = torch.from_numpy(np.random.default_rng(0).random(20_000))
    tokens = choose(probs.log().expand(20_000, -1), Sampling(1), draws)[0]
    shares = torch.bincount(tokens, minlength=5) / 20_000
    # Five standard errors.
    assert (shares - probs).abs().max() < 5 * (0.25 / 20_000) ** 0.5
    assert shares[4] == 0


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1, top_k=2), {0, 1}),
        (Sampling(1, top_p=0.6), {0, 1}),
        (Sampling(1, min_p=0.35), {0, 1, 2}),
        (Sampling(1, top_k=1), {0}),
        (Sampling(1, top_k=2, top_p=0.6), {0}),  # of 2/3 and 1/3, as in generate
    ],
)
def test_truncated_sampling_keeps_the_right_tokens(sampling: Sampling, kept: set[int]) -> None:
    logits = torch.tensor([0.5, 0.25, 0.2, 0.05]).log().expand(999, -1)
    draws = torch.linspace(0, 1, 1001, dtype=torch.double)[1:-1]
    assert set(choose(logits, sampling, draws)[0].tolist()) == kept


def test_extreme_draws_give_possible_tokens() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).expand(2, -1)
    draws = torch.tensor([0.0, float(np.nextafter(1.0, 0.0))], dtype=torch.double)
    assert choose(logits, Sampling(1), draws)[0].tolist() == [1, 2]


def test_picture_and_padding_tokens_are_never_written(tools) -> None:
    net = model("qwen2_vl", tools)
    with torch.no_grad():  # a head that wants nothing but picture tokens
        net.lm_head.weight = torch.nn.Parameter(torch.randn_like(net.lm_head.weight))
        net.lm_head.weight[tools.image_token_id] *= 1000
    prompts = tools.encode(QUESTIONS, pictures(3))
    rollout = generate(net, tools, prompts, Sampling(16), 4, noise(0, 0, [0, 1, 2], 4, 16))
    written = set(rollout.completion_ids[rollout.completion_mask.bool()].tolist())
    assert not written & set(tools.forbidden_tokens())
    assert tools.image_token_id in tools.forbidden_tokens()
    assert tools.tokenizer.eos_token_id not in tools.forbidden_tokens()


class OneWord(torch.nn.Module):
    """Stands where an lm_head was: every token but `word` is impossible."""

    def __init__(self, vocabulary: int, word: int) -> None:
        super().__init__()
        self.bias = torch.full((vocabulary,), -1e4)
        self.bias[word] = 0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.bias.expand(*states.shape[:-1], -1).clone()


def test_all_end_at_once_and_none_ends(tools) -> None:
    net = model("qwen2_vl", tools)
    prompts: PromptBatch = tools.encode(QUESTIONS, pictures(3))
    net.lm_head = OneWord(len(tools.tokenizer), tools.tokenizer.eos_token_id)
    ended = generate(net, tools, prompts, Sampling(9, temperature=0.0))
    assert ended.completion_mask.tolist() == [[1]] * 3
    assert ended.ended.all()
    assert [c.text for c in completions(tools, ended)] == [""] * 3
    net.lm_head = OneWord(len(tools.tokenizer), 40)
    cut = generate(net, tools, prompts, Sampling(9, temperature=0.0))
    assert cut.completion_mask.sum().item() == 27
    assert not cut.ended.any()
    assert all(c.clipped for c in greedy(net, tools, pictures(3), QUESTIONS, 4))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logprobs_of_what_was_sampled_are_those_of_the_packed_pass(tools, family: str) -> None:
    net = model(family, tools)
    prompts = tools.encode(QUESTIONS, [*pictures(2), *pictures(1, width=64)])
    sampling = Sampling(9, temperature=1.3, top_p=0.9)
    rollout = generate(net, tools, prompts, sampling, 4, noise(0, 0, [0, 1, 2], 4, 9))
    install(net)
    shape = (3, 4, -1)
    batch = PackedBatch(
        prompts, rollout.position_ids, rollout.completion_ids.view(shape), rollout.completion_mask.view(shape)
    )
    expected, _ = net(packed=batch, temperature=1.3)
    torch.testing.assert_close(rollout.logprobs.view(shape), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_leave_change_nothing_for_those_that_stay(tools, family: str, monkeypatch) -> None:
    """With the end token likely, rows end at every length; kept in the batch to the end, they give the same."""
    net = model(family, tools, scale=1.5)
    prompts = tools.encode(QUESTIONS, [*pictures(2), *pictures(1, width=64)])
    uniforms = noise(0, 0, [0, 1, 2], 8, 24)
    end = tools.tokenizer.eos_token_id
    head = net.lm_head.forward
    monkeypatch.setattr(net.lm_head, "forward", lambda s: head(s).index_add(-1, torch.tensor([end]), _likely(s)))
    shrunk = generate(net, tools, prompts, Sampling(24), 8, uniforms)
    lengths = shrunk.completion_mask.sum(1)
    assert len(set(lengths.tolist())) > 5
    monkeypatch.setattr(rollout_module, "_SHRINK_AT", 1.0)
    kept = generate(net, tools, prompts, Sampling(24), 8, uniforms)
    assert torch.equal(shrunk.completion_ids, kept.completion_ids)
    assert torch.equal(shrunk.ended, kept.ended)


def _likely(states: torch.Tensor) -> torch.Tensor:
    return torch.full((*states.shape[:-1], 1), 3.5)


def test_joined_prompts_are_those_of_one_encoding(tools) -> None:
    shots = [*pictures(2), *pictures(1, width=64)]
    whole = tools.encode(QUESTIONS, shots)
    parts = [tools.encode(QUESTIONS[:2], shots[:2]), tools.encode(QUESTIONS[2:], shots[2:])]
    joined = PromptBatch.join(parts, tools.tokenizer.pad_token_id)
    for name in whole.__dataclass_fields__:
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_fixed_shapes_give_the_same(tools, family: str, monkeypatch) -> None:
    """What a GPU records as a graph, step by step on the CPU: rows that end, and a grid that shrinks, included."""
    net = model(family, tools, scale=1.5)
    prompts = tools.encode(QUESTIONS, [*pictures(2), *pictures(1, width=64)])
    uniforms = noise(0, 0, [0, 1, 2], 8, 80)
    end, head = tools.tokenizer.eos_token_id, net.lm_head.forward
    monkeypatch.setattr(net.lm_head, "forward", lambda s: head(s).index_add(-1, torch.tensor([end]), _likely(s)))
    expected = generate(net, tools, prompts, Sampling(80), 8, uniforms)
    monkeypatch.setattr(rollout_module, "GroupCache", lambda mask, longest, fixed: GroupCache(mask, longest, True))
    found = generate(net, tools, prompts, Sampling(80), 8, uniforms)
    assert torch.equal(found.completion_ids, expected.completion_ids)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=2e-5)
