"""Completions for a batch of prompts: each prompt is computed once, then its KV cache serves all of its group.

Rows that have ended leave the batch. The noise of sampling depends only on (seed, step, sample, completion,
position), so neither rows leaving nor the way prompts are split into batches or processes changes a completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers import DynamicCache, PreTrainedModel

from othink_mr1.models.processor import Processor, PromptBatch


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The names and meanings are those of transformers' generate."""

    max_new_tokens: int
    temperature: float = 1.0  # 0 means greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 means off
    min_p: float = 0.0


@dataclass
class Rollout:
    """G completions of each of B prompts, rows in order (prompt 0's group first), right-padded to C tokens."""

    completion_ids: torch.Tensor  # (B * G, C)
    completion_mask: torch.Tensor  # (B * G, C), 1 up to and including the end token
    ended: torch.Tensor  # (B * G,), False where the completion was cut off at max_new_tokens
    position_ids: torch.Tensor  # (3, B, P), the prompts' M-RoPE positions, for the passes that follow


@dataclass(frozen=True)
class Completion:
    text: str
    token_count: int
    clipped: bool  # it was cut off at the longest allowed length


def prompt_positions(model: PreTrainedModel, prompts: PromptBatch) -> torch.Tensor:
    """M-RoPE positions (3, B, P) of the prompts' tokens."""
    positions, _ = model.model.get_rope_index(
        prompts.input_ids,
        image_grid_thw=prompts.image_grid_thw,
        attention_mask=prompts.attention_mask,
        mm_token_type_ids=prompts.mm_token_type_ids,
    )
    return positions


def next_positions(position_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(B,): the position of the first completion token, one after the largest of the prompt's (any axis)."""
    return (position_ids.amax(0) * attention_mask).amax(1) + 1


def noise(seed: int, step: int, samples: Sequence[int], num_generations: int, length: int) -> torch.Tensor:
    """Uniform numbers (B * G, length) in [0, 1), each a function of its own coordinates alone."""
    rows = [
        np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, sample, completion]))).random(length)
        for sample in samples
        for completion in range(num_generations)
    ]
    return torch.from_numpy(np.stack(rows))


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    processor: Processor,
    prompts: PromptBatch,
    sampling: Sampling,
    num_generations: int = 1,
    uniforms: torch.Tensor | None = None,
) -> Rollout:
    """`num_generations` completions of every prompt.

    Args:
        model: a Qwen-VL model, not wrapped, on the prompts' device.
        prompts: B prompts, left-padded.
        uniforms: (B * G, max_new_tokens) from `noise`; needed unless the temperature is 0.
    """
    device = prompts.input_ids.device
    rows = len(prompts) * num_generations
    positions = prompt_positions(model, prompts)
    cache = DynamicCache(config=model.config.get_text_config())
    outputs = model(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        position_ids=positions,
        pixel_values=prompts.pixel_values,
        image_grid_thw=prompts.image_grid_thw,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.batch_repeat_interleave(num_generations)
    logits = outputs.logits[:, -1].repeat_interleave(num_generations, 0)
    seen = prompts.attention_mask.repeat_interleave(num_generations, 0)
    position = next_positions(positions, prompts.attention_mask).repeat_interleave(num_generations, 0)

    pad, end = processor.tokenizer.pad_token_id, processor.tokenizer.eos_token_id
    forbidden = torch.tensor(processor.forbidden_tokens(), device=device)
    ids = torch.full((rows, sampling.max_new_tokens), pad, device=device)
    lengths = torch.full((rows,), sampling.max_new_tokens, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    alive = torch.arange(rows, device=device)  # which row of the result each row of the running batch is
    for column in range(sampling.max_new_tokens):
        logits[:, forbidden] = -torch.inf
        draws = None if uniforms is None else uniforms.to(device)[alive, column]
        token = choose(logits, sampling, draws)
        ids[alive, column] = token
        done = token == end
        lengths[alive[done]] = column + 1
        ended[alive[done]] = True
        if done.all() or column + 1 == sampling.max_new_tokens:
            break
        if done.any():
            keep = (~done).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            alive, token, seen, position = alive[keep], token[keep], seen[keep], position[keep]
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
        logits = model(
            input_ids=token[:, None],
            attention_mask=seen,
            position_ids=position.expand(3, -1)[..., None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        position = position + 1
    longest = int(lengths.max())
    mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
    return Rollout(ids[:, :longest], mask, ended, positions)


def choose(logits: torch.Tensor, sampling: Sampling, uniforms: torch.Tensor | None) -> torch.Tensor:
    """The next token of each row (R,): the most likely one, or by inverting the distribution at `uniforms`."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    assert uniforms is not None, "sampling needs noise"
    probs = (logits.float() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1 or sampling.top_k or sampling.min_p > 0:
        probs = truncate(probs, sampling)
    cumulative = probs.double().cumsum(-1)
    total = cumulative[:, -1:]
    # right=True passes over tokens of probability zero; the target stays below the total, whatever the rounding.
    target = torch.minimum(uniforms.double()[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def truncate(probs: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """`probs` (R, V) with zeros outside top-p, top-k and min-p; the most likely token always stays."""
    ranked, order = torch.sort(probs, dim=-1, descending=True, stable=True)
    drop = ranked.cumsum(-1) - ranked >= sampling.top_p
    drop |= ranked < sampling.min_p * ranked[:, :1]
    if sampling.top_k:
        drop[:, sampling.top_k :] = True
    drop[:, 0] = False
    return torch.zeros_like(probs).scatter(-1, order, ranked.masked_fill(drop, 0.0))


def greedy(
    model: PreTrainedModel,
    processor: Processor,
    pictures: Sequence[Image.Image],
    prompts: Sequence[str],
    max_new_tokens: int,
) -> list[Completion]:
    """The most likely completion of each user turn (one picture, one text), in order."""
    batch = processor.encode(prompts, pictures).to(model.device)
    rollout = generate(model, processor, batch, Sampling(max_new_tokens, temperature=0.0))
    return completions(processor, rollout)


def completions(processor: Processor, rollout: Rollout) -> list[Completion]:
    """The rollout's rows as text."""
    counts = rollout.completion_mask.sum(1).tolist()
    return [
        Completion(processor.decode(ids[:count]), count, not ended)
        for ids, count, ended in zip(rollout.completion_ids, counts, rollout.ended.tolist(), strict=True)
    ]
