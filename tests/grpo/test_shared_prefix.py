"""The packed pass is exact: values and all gradients are those of repeated rows."""

import pytest
import torch

from othink_mr1.grpo.rollout import Sampling, generate, noise
from othink_mr1.grpo.shared_prefix import PackedBatch, chunked_logprobs, install
from othink_mr1.models.processor import PromptBatch
from tests.grpo.families import FAMILIES, QUESTIONS, model, pictures, processor

GROUP, LENGTH = 3, 7


def repeated_logprobs(net: torch.nn.Module, prompts: PromptBatch, completions: torch.Tensor) -> torch.Tensor:
    """The slow way: every completion in a row of its own, through transformers' own attention."""
    batch, group, length = completions.shape
    again = lambda rows: rows.repeat_interleave(group, 0)  # noqa: E731
    ids = torch.cat([again(prompts.input_ids), completions.flatten(0, 1)], 1)
    ones = torch.ones(batch * group, length, dtype=torch.long)
    patches = prompts.pixel_values.split(prompts.image_grid_thw.prod(-1).tolist())
    logits = net(
        input_ids=ids,
        attention_mask=torch.cat([again(prompts.attention_mask), ones], 1),
        mm_token_type_ids=torch.cat([again(prompts.mm_token_type_ids), 0 * ones.int()], 1),
        pixel_values=torch.cat([p.repeat(group, 1) for p in patches]),
        image_grid_thw=again(prompts.image_grid_thw),
    ).logits[:, -length - 1 : -1]
    return logits.log_softmax(-1).gather(-1, completions.flatten(0, 1)[..., None]).view(batch, group, length)


def gradients(net: torch.nn.Module, value: torch.Tensor) -> torch.Tensor:
    net.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_those_of_repeated_rows(family: str, checkpointing: bool) -> None:
    tools = processor()
    net = model(family, tools, scale=2.0).double()
    # Prompts of three lengths and pictures of two shapes: left padding and several grids in one batch.
    prompts = tools.encode(QUESTIONS, [*pictures(2), *pictures(1, width=64)])
    prompts.pixel_values = prompts.pixel_values.double()
    completions = torch.randint(10, 250, (3, GROUP, LENGTH), generator=torch.Generator().manual_seed(1))
    weight = torch.randn(completions.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    positions = generate(net, tools, prompts, Sampling(1, temperature=0.0)).position_ids

    expected = repeated_logprobs(net, prompts, completions)
    expected_gradients = gradients(net, (expected * weight).sum())
    install(net)
    if checkpointing:
        net.train()
        net.gradient_checkpointing_enable({"use_reentrant": False})
    found, _ = net(packed=PackedBatch(prompts, positions, completions), chunk=5)
    found_gradients = gradients(net, (found.double() * weight).sum())

    # The log-softmax is computed in float32, whatever the model's precision.
    assert (found - expected).abs().max() < 2e-6
    assert (found_gradients - expected_gradients).norm() < 1e-6 * expected_gradients.norm()
    assert expected_gradients.norm() > 0


def test_a_completion_does_not_see_its_neighbours() -> None:
    tools = processor()
    net = model("qwen2_vl", tools)
    install(net)
    prompts = tools.encode(QUESTIONS[:1], pictures(1))
    positions = generate(net, tools, prompts, Sampling(1, temperature=0.0)).position_ids
    completions = torch.randint(10, 250, (1, 2, LENGTH), generator=torch.Generator().manual_seed(1))
    before, _ = net(packed=PackedBatch(prompts, positions, completions))
    changed = completions.clone()
    changed[0, 1] = 11
    after, _ = net(packed=PackedBatch(prompts, positions, changed))
    assert torch.equal(before[0, 0], after[0, 0])
    assert not torch.equal(before[0, 1], after[0, 1])


def test_several_pictures_in_one_prompt() -> None:
    tools = processor()
    net = model("qwen2_vl", tools)
    prompts = tools.encode(["Which has more?"], [pictures(2)])
    assert len(prompts.image_grid_thw) == 2
    completions = torch.randint(10, 250, (1, 2, LENGTH), generator=torch.Generator().manual_seed(1))
    rollout = generate(net, tools, prompts, Sampling(2), 2, noise(0, 0, [0], 2, 2))
    install(net)
    found, _ = net(packed=PackedBatch(prompts, rollout.position_ids, completions))

    def one_row(row: torch.Tensor) -> torch.Tensor:
        return net(
            input_ids=torch.cat([prompts.input_ids[0], row])[None],
            mm_token_type_ids=torch.cat([prompts.mm_token_type_ids[0], torch.zeros(LENGTH, dtype=torch.int)])[None],
            pixel_values=prompts.pixel_values,
            image_grid_thw=prompts.image_grid_thw,
        ).logits[0, -LENGTH - 1 : -1]

    for row, logprobs in zip(completions[0], found[0], strict=True):
        expected = one_row(row).log_softmax(-1).gather(-1, row[:, None])[:, 0]
        assert (logprobs - expected).abs().max() < 1e-4


def test_ordinary_calls_and_saved_configs_stay_ordinary(tmp_path) -> None:
    tools = processor()
    net = model("qwen2_vl", tools)
    prompts = tools.encode(QUESTIONS, pictures(3))
    inputs = {name: getattr(prompts, name) for name in prompts.__dataclass_fields__}
    before = net(**inputs).logits
    install(net)
    assert torch.equal(net(**inputs).logits, before)
    net.save_pretrained(tmp_path)
    assert "shared_prefix" not in (tmp_path / "config.json").read_text()


def test_entropy_and_chunks() -> None:
    head = torch.nn.Linear(8, 50)
    states, tokens = torch.randn(11, 8), torch.randint(0, 50, (11,))
    logprobs, entropy = chunked_logprobs(states, head, tokens, temperature=0.7, chunk=4)
    distribution = torch.distributions.Categorical(logits=head(states) / 0.7)
    torch.testing.assert_close(logprobs, distribution.log_prob(tokens))
    torch.testing.assert_close(entropy, distribution.entropy())
