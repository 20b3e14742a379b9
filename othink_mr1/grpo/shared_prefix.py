"""Log-probabilities of a group's completions with its prompt computed once.

One row holds `[prompt | completion 1 | ... | completion G]`. Every completion sees the prompt and itself, and its
positions start where the prompt ends, so values and gradients are those of G separate rows, while the work falls
from G (P + C) tokens to P + G C. The vision tower runs once per picture.

The rows go through the models' own layers. Only attention differs: `shared_prefix_attention` is registered with
transformers under a name, and is told the layout by the shape of the mask it is given.
"""

import types
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from othink_mr1.grpo.rollout import next_positions
from othink_mr1.models.processor import PromptBatch

ATTENTION = "shared_prefix"


@dataclass
class PackedBatch:
    """B prompts of P tokens (left-padded) with G completions each of C tokens (right-padded)."""

    prompts: PromptBatch
    position_ids: torch.Tensor  # (3, B, P)
    completion_ids: torch.Tensor  # (B, G, C)

    @property
    def group(self) -> tuple[int, int]:
        return self.completion_ids.shape[1], self.completion_ids.shape[2]


def packed_inputs(batch: PackedBatch) -> dict[str, torch.Tensor]:
    """The model's inputs for rows of P + G C tokens.

    The attention mask has the shape (B, G, C, P), which no ordinary mask of such rows has (theirs has P + G C
    queries): it says both how the row is cut and which of the prompt's tokens are padding. It is an expanded view
    and holds B * P values.
    """
    prompts, (groups, length) = batch.prompts, batch.group
    start = next_positions(batch.position_ids, prompts.attention_mask)  # (B,)
    steps = torch.arange(length, device=start.device).repeat(groups)
    completion_positions = (start[:, None] + steps).expand(3, -1, -1)
    visible = prompts.attention_mask.bool()[:, None, None].expand(-1, groups, length, -1)
    return {
        "input_ids": torch.cat([prompts.input_ids, batch.completion_ids.flatten(1)], 1),
        "position_ids": torch.cat([batch.position_ids, completion_positions], -1),
        "attention_mask": visible,
        "pixel_values": prompts.pixel_values,
        "image_grid_thw": prompts.image_grid_thw,
    }


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over packed rows; over ordinary rows it is transformers' own SDPA attention.

    Two dense calls, neither with a square of the whole row: the prompt over itself, and each completion over the
    prompt and itself.

    Args:
        query: (B, heads, L, head size); key and value with the model's fewer heads.
        attention_mask: (B, G, C, P) from `packed_inputs` with L = P + G C, or an ordinary mask.

    Returns:
        (B, L, heads, head size), and None in place of the weights.
    """
    if attention_mask is None or query.shape[2] != attention_mask.shape[3] + _completion_tokens(attention_mask):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    batch, groups, length, prompt = attention_mask.shape
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    padding = attention_mask[:, 0, :1]  # (B, 1, P): the prompt's real tokens

    causal = torch.ones(prompt, prompt, dtype=torch.bool, device=query.device).tril()
    # A padding token sees itself: a row without any key would give NaN.
    own = torch.eye(prompt, dtype=torch.bool, device=query.device)
    prompt_mask = ((causal & padding) | own)[:, None]
    prompt_out = F.scaled_dot_product_attention(
        query[:, :, :prompt], key[:, :, :prompt], value[:, :, :prompt], prompt_mask, dropout, scale=scaling
    )

    def per_completion(states: torch.Tensor) -> torch.Tensor:  # (B, H, G C, D) -> (B G, H, C, D)
        heads, size = states.shape[1], states.shape[3]
        return states.view(batch, heads, groups, length, size).transpose(1, 2).flatten(0, 1)

    def with_prompt(states: torch.Tensor) -> torch.Tensor:  # (B, H, L, D) -> (B G, H, P + C, D)
        shared = states[:, None, :, :prompt].expand(-1, groups, -1, -1, -1).flatten(0, 1)
        return torch.cat([shared, per_completion(states[:, :, prompt:])], 2)

    within = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    completion_mask = torch.cat([padding.expand(-1, length, -1), within.expand(batch, -1, -1)], 2)
    out = F.scaled_dot_product_attention(
        per_completion(query[:, :, prompt:]),
        with_prompt(key),
        with_prompt(value),
        completion_mask.repeat_interleave(groups, 0)[:, None],
        dropout,
        scale=scaling,
    )
    out = out.view(batch, groups, *out.shape[1:]).transpose(1, 2).flatten(2, 3)
    return torch.cat([prompt_out, out], 2).transpose(1, 2).contiguous(), None


def _completion_tokens(mask: torch.Tensor) -> int:
    return mask.shape[1] * mask.shape[2]


AttentionInterface.register(ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def install(model: PreTrainedModel) -> None:
    """Teaches `model(packed=PackedBatch)` to return log-probabilities; every other call stays as it was.

    The pass has to enter through the model's own `__call__`: wrappers such as DDP and FSDP hook into it, and going
    round them loses the exchange of gradients without an error.
    """
    text_config = model.config.get_text_config()
    text_config._attn_implementation = ATTENTION
    original = model.forward

    def forward(self: PreTrainedModel, *args: Any, packed: PackedBatch | None = None, **kwargs: Any) -> Any:
        if packed is None:
            return original(*args, **kwargs)
        return packed_logprobs(self, packed, **kwargs)

    model.forward = types.MethodType(forward, model)


def packed_logprobs(
    model: PreTrainedModel, batch: PackedBatch, temperature: float = 1.0, chunk: int = 1024
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of every completion token.

    Args:
        temperature: the logits are divided by it, as when the tokens were sampled.
        chunk: how many tokens' logits are in memory at once.

    Returns:
        Two float32 tensors (B, G, C): log-probabilities, and (without gradient) entropies in nats.
    """
    groups, length = batch.group
    hidden = model.model(**packed_inputs(batch), use_cache=False).last_hidden_state
    prompt = batch.prompts.input_ids.shape[1]
    # The prompt's last token predicts the first token of every completion; a completion's last predicts nothing.
    first = hidden[:, None, prompt - 1 : prompt].expand(-1, groups, -1, -1)
    rest = hidden[:, prompt:].unflatten(1, (groups, length))[:, :, :-1]
    states = torch.cat([first, rest], 2)
    logprobs, entropy = chunked_logprobs(
        states.flatten(0, 2), model.lm_head, batch.completion_ids.flatten(), temperature, chunk
    )
    shape = batch.completion_ids.shape
    return logprobs.view(shape), entropy.view(shape)


def chunked_logprobs(
    states: torch.Tensor, head: torch.nn.Module, tokens: torch.Tensor, temperature: float, chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies (N,) of `tokens` (N,) from hidden states (N, hidden size).

    The logits (N, vocabulary) never exist as a whole: each chunk's are made again in the backward pass.
    """

    def one(part: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        all_logprobs = (head(part).float() / temperature).log_softmax(-1)
        with torch.no_grad():
            entropy = -(all_logprobs.exp() * all_logprobs).sum(-1)
        return all_logprobs.gather(-1, target[:, None])[:, 0], entropy

    results = [
        checkpoint(one, part, target, use_reentrant=False) if torch.is_grad_enabled() else one(part, target)
        for part, target in zip(states.split(chunk), tokens.split(chunk), strict=True)
    ]
    return torch.cat([r[0] for r in results]), torch.cat([r[1] for r in results])


def token_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of `values` over the tokens that `mask` keeps."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
