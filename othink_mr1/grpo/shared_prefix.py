"""Log-probabilities of a group's completions with its prompt computed once.

One row holds `[prompt | completion 1 | ... | completion G]`. Every completion sees the prompt and itself, and its
positions start where the prompt ends, so values and gradients are those of G separate rows, while the work falls
from G (P + C) tokens to P and the sum of the completions' own lengths: there is no padding between them. The vision
tower runs once per picture.

The row goes through the models' own layers; only attention differs (`grpo.attention`).
"""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from othink_mr1.grpo.attention import Packing, use_shared_attention
from othink_mr1.models.passes import Features, image_features, next_positions, text_states
from othink_mr1.models.processor import PromptBatch


@dataclass
class PackedBatch:
    """B prompts of P tokens (left-padded) with G completions each of at most C tokens (right-padded)."""

    prompts: PromptBatch
    position_ids: torch.Tensor  # (3, B, P)
    completion_ids: torch.Tensor  # (B, G, C)
    completion_mask: torch.Tensor | None = None  # (B, G, C), 1 for tokens; None where no completion is padded

    @property
    def mask(self) -> torch.Tensor:
        return torch.ones_like(self.completion_ids) if self.completion_mask is None else self.completion_mask

    def part(self, start: int, end: int) -> "PackedBatch":
        """The same prompts with completions `start` to `end` of each group."""
        return PackedBatch(self.prompts, self.position_ids, self.completion_ids[:, start:end], self.mask[:, start:end])


def install(model: PreTrainedModel) -> None:
    """Teaches `model(packed=PackedBatch)` to return log-probabilities, and `model(inside=function)` what the function
    says of the bare model; every other call stays as it was.

    The pass has to enter through the model's own `__call__`: wrappers such as DDP and FSDP hook into it, and going
    round them loses the exchange of gradients without an error.
    """
    use_shared_attention(model)
    original = model.forward

    def forward(
        self: PreTrainedModel, *args: Any, packed: PackedBatch | None = None, inside: Any = None, **kwargs: Any
    ) -> Any:
        if inside is not None:
            return inside(self)
        if packed is None:
            return original(*args, **kwargs)
        return packed_logprobs(self, packed, **kwargs)

    model.forward = types.MethodType(forward, model)


def packed_logprobs(
    model: PreTrainedModel,
    batch: PackedBatch,
    temperature: float = 1.0,
    chunk: int = 1024,
    tokens_per_pass: int = 0,
    features: Features | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of every completion token.

    Args:
        temperature: the logits are divided by it, as when the tokens were sampled.
        chunk: how many tokens' logits are in memory at once.
        tokens_per_pass: see `parts`; 0 is no limit.
        features: of the prompts' pictures, where they are known already.

    Returns:
        Two tensors (B, G, C), float32 (float64 for such a model): log-probabilities, and (without gradient) entropies
        in nats; zero where the completions are padded.
    """
    features = image_features(model, batch.prompts) if features is None else features
    bounds = list(parts(batch, tokens_per_pass))

    def one(start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        return _one_pass(model, batch.part(start, end), features, temperature, chunk)

    if len(bounds) == 1:
        return one(*bounds[0])
    # One part's activations at a time: the others' are made again in the backward pass.
    keep = torch.is_grad_enabled()
    results = [checkpoint(one, *b, use_reentrant=False) if keep else one(*b) for b in bounds]
    return torch.cat([r[0] for r in results], 1), torch.cat([r[1] for r in results], 1)


def parts(batch: PackedBatch, tokens_per_pass: int) -> Iterator[tuple[int, int]]:
    """Which completions share one pass: (first, one after the last), a pass after the other.

    A pass over k completions of C tokens costs P + k C tokens, so the fewer passes the better: all G in one costs
    the least in time at every shape, and k = 1 (repeated rows) the most. What grows with k is memory. So the rule is:
    as many completions in a pass as `tokens_per_pass` allows (0: all of them), but at least one.
    """
    mask = batch.mask
    longest = mask.sum(-1).amax(0).tolist()  # of each completion, over the batch's groups
    prompts = batch.prompts.input_ids.shape[1]
    start, tokens = 0, prompts
    for index, length in enumerate(longest):
        if tokens_per_pass and index > start and tokens + length > tokens_per_pass:
            yield start, index
            start, tokens = index, prompts
        tokens += length
    yield start, len(longest)


def _one_pass(
    model: PreTrainedModel, batch: PackedBatch, features: Features, temperature: float, chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    prompts, mask = batch.prompts, batch.mask
    packing = Packing.of(prompts.attention_mask, mask)
    if not packing.filled.any():  # nothing to compute, and yet a backward pass may ask
        nothing = 0 * model.get_input_embeddings().weight[:1, :1] * features.tokens[:1, :1]
        return nothing.new_zeros(mask.shape) + nothing[..., None].float(), nothing.detach().new_zeros(mask.shape)
    length = mask.shape[2]
    ids = packing.pack(batch.completion_ids.flatten(1))  # (B, T)
    # A completion's tokens stand one after the other: how far into it is the column of its cell.
    column = torch.arange(length, device=ids.device).repeat(mask.shape[1]).expand(len(ids), -1)
    column = packing.pack(column)
    start = next_positions(batch.position_ids, prompts.attention_mask)
    positions = (start[:, None] + column).expand(3, -1, -1)

    row = torch.cat([prompts.input_ids, ids.masked_fill(~packing.real, 0)], 1)
    states = text_states(
        model, row, torch.cat([batch.position_ids, positions], -1), features, layout=packing
    )  # (B, P + T, hidden size)
    # What predicts a token is the state before it: for a completion's first one, the prompt's last.
    token = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    before = torch.where(column == 0, packing.prompt - 1, packing.prompt + token - 1)
    before = before + torch.arange(len(ids), device=ids.device)[:, None] * states.shape[1]
    real = packing.real.flatten()
    chosen = states.flatten(0, 1).index_select(0, before.flatten()[real])
    found = chunked_logprobs(chosen, model.lm_head, ids.flatten()[real], temperature, chunk)
    return tuple(_on_grid(values, packing) for values in found)  # type: ignore[return-value]


def _on_grid(values: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Values of the real tokens, one after the other, to (B, G, C) with zeros in the empty cells."""
    row = values.new_zeros(packing.real.shape).masked_scatter(packing.real, values)
    return packing.unpack(row).masked_fill(~packing.filled.unflatten(1, (packing.group, packing.length)), 0)


def chunked_logprobs(
    states: torch.Tensor, head: torch.nn.Module, tokens: torch.Tensor, temperature: float, chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies (N,) of `tokens` (N,) from hidden states (N, hidden size).

    The logits (N, vocabulary) never exist as a whole: each chunk's are made again in the backward pass.
    """

    def one(part: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = head(part)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        all_logprobs = (logits / temperature).log_softmax(-1)
        with torch.no_grad():
            entropy = torch.special.entr(all_logprobs.exp()).sum(-1)
        return all_logprobs.gather(-1, target[:, None])[:, 0], entropy

    results = [
        checkpoint(one, part, target, use_reentrant=False) if torch.is_grad_enabled() else one(part, target)
        for part, target in zip(states.split(chunk), tokens.split(chunk), strict=True)
    ]
    return torch.cat([r[0] for r in results]), torch.cat([r[1] for r in results])


def token_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of `values` over the tokens that `mask` keeps."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
