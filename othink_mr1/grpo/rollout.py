"""Completions for a batch of prompts: each prompt is computed once, and its keys and values serve all of its group.

Rows that have ended leave the batch. The noise of sampling depends only on (seed, step, sample, completion,
position), so neither rows leaving nor the way prompts are split into batches or processes changes a completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from PIL import Image
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from othink_mr1.errors import UserError
from othink_mr1.grpo.attention import use_shared_attention
from othink_mr1.grpo.decoding import GroupCache, Step, stepper
from othink_mr1.models.passes import Features, image_features, next_positions, prompt_positions, text_states
from othink_mr1.models.processor import Processor, PromptBatch
from othink_mr1.training.together import any_of

# Rows that have ended are computed along until this share of the running ones has: to drop a row copies the others.
_SHRINK_AT = 0.25
# Whether a step of decoding is recorded as a CUDA graph on a GPU.
RECORDS = True


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
    logprobs: torch.Tensor  # (B * G, C), of the sampled tokens under the model at this temperature; 0 for padding


@dataclass(frozen=True)
class Completion:
    text: str
    token_count: int
    clipped: bool  # it was cut off at the longest allowed length


def noise(seed: int, step: int, samples: Sequence[int], num_generations: int, length: int) -> torch.Tensor:
    """Uniform numbers (B * G, length) in [0, 1), each a function of its own coordinates alone."""
    rows = [
        np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, sample, completion]))).random(length)
        for sample in samples
        for completion in range(num_generations)
    ]
    return torch.from_numpy(np.stack(rows))


def generate(
    model: PreTrainedModel,
    processor: Processor,
    prompts: PromptBatch,
    sampling: Sampling,
    num_generations: int = 1,
    uniforms: torch.Tensor | None = None,
    features: Features | None = None,
) -> Rollout:
    """`num_generations` completions of every prompt.

    Args:
        model: a Qwen-VL model, not wrapped, on the prompts' device.
        prompts: B prompts, left-padded.
        uniforms: (B * G, max_new_tokens) from `noise`; needed unless the temperature is 0.
        features: of the prompts' pictures, where they are known already.
    """

    use_shared_attention(model)
    sharded = any(isinstance(module, FSDPModule) for module in model.modules())
    # Cheaper than no_grad by a fifth where steps are small; what leaves it has to be copied to meet autograd again.
    # A weight that is put together from its parts is kept for the training passes, which could not use it then.
    with torch.no_grad() if sharded else torch.inference_mode():
        rollout = _generate(model, processor, prompts, sampling, num_generations, uniforms, features, sharded)
    return Rollout(**{f.name: getattr(rollout, f.name).clone() for f in fields(rollout)})


def _generate(
    model: PreTrainedModel,
    processor: Processor,
    prompts: PromptBatch,
    sampling: Sampling,
    group: int,
    uniforms: torch.Tensor | None,
    features: Features | None,
    in_step: bool,
) -> Rollout:
    """`in_step`: the weights are put together from all processes' parts, so that all have to make as many steps."""
    device, limit = prompts.input_ids.device, sampling.max_new_tokens
    rows = len(prompts) * group
    positions = prompt_positions(model, prompts)
    features = image_features(model, prompts) if features is None else features
    cache = GroupCache(prompts.attention_mask, limit, fixed=device.type == "cuda" and RECORDS)
    states = text_states(model, prompts.input_ids, positions, features, cache, layout=cache)
    logits = model.lm_head(states[:, -1]).repeat_interleave(group, 0)
    position = next_positions(positions, prompts.attention_mask).repeat_interleave(group, 0)
    cache.repeat(group)

    def one_token(token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        rows = token[:, None], position.expand(3, -1)[..., None]
        return model.lm_head(text_states(model, *rows, cache=cache, layout=cache)[:, -1])

    step: Step | None = None
    pad, end = processor.tokenizer.pad_token_id, processor.tokenizer.eos_token_id
    forbidden = torch.tensor(processor.forbidden_tokens(), device=device)
    uniforms = None if uniforms is None else uniforms.to(device)
    ids = torch.full((rows, limit), pad, device=device)
    logprobs = torch.zeros(rows, limit, device=device)
    lengths = torch.full((rows,), limit, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    running = torch.arange(rows, device=device)  # which row of the result each row of the batch is
    alive = torch.ones(rows, dtype=torch.bool, device=device)  # which rows of the batch have not ended
    for column in range(limit):
        token, logprob = choose(logits, sampling, None if uniforms is None else uniforms[running, column], forbidden)
        writing = running[alive]
        ids[writing, column], logprobs[writing, column] = token[alive], logprob[alive]
        done = alive & (token == end)
        lengths[running[done]] = column + 1
        ended[running[done]] = True
        alive &= ~done
        count = int(alive.sum())
        if column + 1 == limit or not (any_of(count > 0, device) if in_step else count):
            break
        if count <= (1 - _SHRINK_AT) * len(alive) and len(alive) > 1:
            keep, alive = _shrink(cache, alive) if count else _one_row(cache, alive)
            running, token, position, step = running[keep], token[keep], position[keep], None
        cache.advance()
        step = step or stepper(one_token, cache, token, position)
        logits = step(token, position)
        position = position + 1
    if not logprobs.isfinite().all():
        raise UserError("the model's logits are not finite: its weights are broken, or training has destroyed them")
    longest = int(lengths.max())
    mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
    return Rollout(ids[:, :longest], mask, ended, positions, logprobs[:, :longest])


def _shrink(cache: GroupCache, alive: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes rows that have ended out of the grid of prompts and completions.

    The grid stays a grid: prompts with nothing left to write leave, and each other keeps as many rows as the one with
    the most has alive, so that a few ended rows may stay. The cache is cut in the same way.

    Returns:
        The rows that stay, by their present number, and which of these are alive.
    """
    grid = alive.view(-1, cache.group)
    counts = grid.sum(1)
    prompts = counts.nonzero()[:, 0]
    group = int(counts.max())
    # The alive ones first, in their order.
    order = grid[prompts].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :group]
    rows = (prompts[:, None] * cache.group + order).flatten()
    if len(rows) < len(alive):
        cache.keep(None if len(prompts) == len(grid) else prompts, rows, group)
        return rows, alive[rows]
    return torch.arange(len(alive), device=alive.device), alive


def _one_row(cache: GroupCache, alive: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `_shrink` does where no row is left that another process could wait for: the first goes on, unread."""
    keep, _ = _shrink(cache, torch.arange(len(alive), device=alive.device) == 0)
    return keep, alive[keep]


def choose(
    logits: torch.Tensor, sampling: Sampling, uniforms: torch.Tensor | None, forbidden: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of each row (R,): the most likely one, or by inverting the distribution at `uniforms`.

    Args:
        logits: (R, vocabulary).
        forbidden: tokens that are never chosen.

    Returns:
        Tokens and their log-probabilities at this temperature (1 for greedy) among all tokens, forbidden ones too:
        what `shared_prefix` computes for them.
    """
    scaled = logits.float() / (sampling.temperature or 1.0)
    allowed = scaled if forbidden is None else scaled.index_fill(1, forbidden, -torch.inf)
    if sampling.temperature == 0:
        token = allowed.argmax(-1)
    else:
        assert uniforms is not None, "sampling needs noise"
        probs = allowed.softmax(-1)
        if sampling.top_p < 1 or sampling.top_k or sampling.min_p > 0:
            probs = truncate(probs, sampling)
        cumulative = probs.double().cumsum(-1)
        total = cumulative[:, -1:]
        # right=True passes over tokens of probability zero; the target stays below the total, whatever the rounding.
        target = torch.minimum(uniforms.double()[:, None] * total, total.nextafter(torch.zeros_like(total)))
        # Of probabilities that are NaN none is found; the caller says so, and no index leaves the vocabulary.
        token = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return token, scaled.gather(1, token[:, None])[:, 0] - scaled.logsumexp(-1)


def truncate(probs: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """`probs` (R, V) with zeros outside top-p, top-k and min-p; the most likely token always stays."""
    ranked, order = torch.sort(probs, dim=-1, descending=True, stable=True)
    if sampling.top_k:
        ranked = ranked.index_fill(1, torch.arange(sampling.top_k, ranked.shape[1], device=ranked.device), 0)
    # In generate's order: what top-k leaves is a distribution again before top-p looks at it, and so on.
    shares = ranked / ranked.sum(-1, keepdim=True)
    drop = shares.cumsum(-1) - shares >= sampling.top_p
    drop |= ranked < sampling.min_p * ranked[:, :1]
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
