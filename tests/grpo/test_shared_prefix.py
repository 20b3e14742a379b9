"""The packed pass is exact: values and all gradients are those of repeated rows."""

import types

import pytest
import torch

from othink_mr1.grpo import attention
from othink_mr1.grpo.attention import Packing
from othink_mr1.grpo.rollout import Sampling, generate, noise
from othink_mr1.grpo.shared_prefix import PackedBatch, chunked_logprobs, install, parts
from othink_mr1.models.passes import image_features, prompt_positions
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


LENGTHS = {
    "full": None,
    "odd": [[7, 1, 3], [2, 7, 4], [1, 1, 1]],
    "one prompt without any": [[0, 0, 0], [2, 5, 7], [0, 1, 0]],
    "no last completion": [[7, 7, 0], [5, 1, 0], [3, 2, 0]],
}


def mask_of(lengths: list[list[int]] | None) -> torch.Tensor:
    counts = torch.full((3, GROUP), LENGTH) if lengths is None else torch.tensor(lengths)
    return (torch.arange(LENGTH) < counts[..., None]).long()


def in_float64_throughout(net: torch.nn.Module) -> None:
    """The models' RMSNorm computes in float32 whatever it is given; here it does not."""

    def forward(self: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
        variance = states.pow(2).mean(-1, keepdim=True)
        return self.weight * (states * torch.rsqrt(variance + self.variance_epsilon))

    for module in net.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(forward, module)


@pytest.mark.parametrize(("checkpointing", "tokens_per_pass"), [(False, 0), (True, 0), (False, 1), (False, 40)])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_those_of_repeated_rows(
    family: str, lengths: list[list[int]] | None, checkpointing: bool, tokens_per_pass: int
) -> None:
    tools = processor()
    net = model(family, tools, scale=2.0).double()
    in_float64_throughout(net)
    # Prompts of three lengths and pictures of two shapes: left padding and several grids in one batch.
    prompts = tools.encode(QUESTIONS, [*pictures(2), *pictures(1, width=64)])
    prompts.pixel_values = prompts.pixel_values.double()
    mask = mask_of(lengths)
    completions = torch.randint(10, 250, (3, GROUP, LENGTH), generator=torch.Generator().manual_seed(1))
    weight = mask * torch.randn(completions.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))

    expected = repeated_logprobs(net, prompts, completions) * mask
    expected_gradients = gradients(net, (expected * weight).sum())
    install(net)
    if checkpointing:
        net.train()
        net.gradient_checkpointing_enable({"use_reentrant": False})
    batch = PackedBatch(prompts, prompt_positions(net, prompts), completions, mask)
    found, _ = net(packed=batch, chunk=5, tokens_per_pass=tokens_per_pass)
    found_gradients = gradients(net, (found * weight).sum())

    assert (found - expected).abs().max() < 1e-9
    assert (found_gradients - expected_gradients).norm() < 1e-9 * expected_gradients.norm()
    assert expected_gradients.norm() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_other_attention_is_exact_too(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs where the CPU's flash kernel does not."""
    tools = processor()
    net = model(family, tools, scale=2.0)
    prompts = tools.encode(QUESTIONS, [*pictures(2), *pictures(1, width=64)])
    mask = mask_of(LENGTHS["odd"])
    completions = torch.randint(10, 250, (3, GROUP, LENGTH), generator=torch.Generator().manual_seed(1))
    install(net)
    batch = PackedBatch(prompts, prompt_positions(net, prompts), completions, mask)
    results = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(attention, "completion_attention", attention.plain_completion_attention)
        found, _ = net(packed=batch)
        results.append((found, gradients(net, found.sum())))
    (one, one_gradient), (other, other_gradient) = results
    torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
    assert (one_gradient - other_gradient).norm() < 1e-5 * one_gradient.norm()
    assert not torch.equal(one, other)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_a_gpus_attention_sees_what_it_should(lengths: list[list[int]] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward alone: on the CPU flex_attention has no backward pass."""
    tools = processor()
    net = model("qwen2_vl", tools, scale=2.0)
    prompts = tools.encode(QUESTIONS, [*pictures(2), *pictures(1, width=64)])
    completions = torch.randint(10, 250, (3, GROUP, LENGTH), generator=torch.Generator().manual_seed(1))
    install(net)
    batch = PackedBatch(prompts, prompt_positions(net, prompts), completions, mask_of(lengths))
    with torch.no_grad():
        expected, _ = net(packed=batch)

        def flex(self: Packing, layer: int, *states: torch.Tensor) -> torch.Tensor:
            return attention.flex_attention_over(self, *states, compiled=False)

        monkeypatch.setattr(Packing, "attend", flex)
        found, _ = net(packed=batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_parts_are_as_few_as_the_limit_allows() -> None:
    tools = processor()
    prompts = tools.encode(QUESTIONS[:1], pictures(1))
    size = prompts.input_ids.shape[1]
    mask = (torch.arange(9) < torch.tensor([[[9], [1], [4], [5]]])).long()
    batch = PackedBatch(prompts, torch.zeros(3, 1, size), torch.zeros(1, 4, 9, dtype=torch.long), mask)
    assert list(parts(batch, 0)) == [(0, 4)]
    assert list(parts(batch, size + 19)) == [(0, 4)]
    assert list(parts(batch, size + 10)) == [(0, 2), (2, 4)]
    assert list(parts(batch, 1)) == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("family", FAMILIES)
def test_features_that_are_known_are_not_computed_again(family: str) -> None:
    tools = processor()
    net = model(family, tools)
    install(net)
    prompts = tools.encode(QUESTIONS, [*pictures(2), *pictures(1, width=64)])
    completions = torch.randint(10, 250, (3, GROUP, LENGTH), generator=torch.Generator().manual_seed(1))
    batch = PackedBatch(prompts, prompt_positions(net, prompts), completions)
    expected, _ = net(packed=batch)
    known = image_features(net, prompts)
    net.model.visual = None  # whoever asked for it would fail
    found, _ = net(packed=batch, features=known)
    assert torch.equal(found, expected)


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
