"""Attention in which the completions of a group share their prompt's keys and values.

It is registered with transformers under a name. A layer's call that says nothing of `layout` is ordinary attention;
one that does is answered by that layout: `Packing` here for whole rows, `grpo.decoding.GroupCache` for single tokens.

Over a packed row a completion's token attends to two sets of keys, those of its prompt and those of its own
completion before it. Each set is one dense call of a flash kernel, with no mask and no copy of the prompt's keys for
each completion; the two are joined by their log-sum-exp, as flash kernels join their own blocks. In the backward
pass each kernel is given the joined output and log-sum-exp, with which its gradients are those of the whole.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "shared_prefix"
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """transformers' attention function: (B, heads, L, head size) to (B, L, heads, head size)."""
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    device = query.device.type
    if torch.is_autocast_enabled(device):  # rotary embeddings leave queries and keys in float32, values not
        query, key, value = (states.to(torch.get_autocast_dtype(device)) for states in (query, key, value))
    return layout.attend(module.layer_idx, query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use_shared_attention(model: PreTrainedModel) -> None:
    """Makes the language model's layers ask `attention`; calls that name no layout stay what they were.

    Raises:
        ValueError: the model has sliding-window layers or attention dropout, which no layout knows of.
    """
    config = model.config.get_text_config()
    if config._attn_implementation == NAME:
        return
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ValueError("the model has sliding-window attention; only full attention can share a prompt")
    if getattr(config, "attention_dropout", 0.0):
        raise ValueError(f"attention_dropout is {config.attention_dropout}; sharing a prompt needs 0")
    config._attn_implementation = NAME


@dataclass
class Packing:
    """How B rows `[prompt | tokens of completion 1 | ... | of completion G]` are cut.

    A prompt has P tokens, padded on the left. The completions follow without padding between them; a row that has
    fewer tokens than the longest one is padded on the right. The grid is what has a completion's tokens in a line of
    its own: G lines of C cells.
    """

    prompt_mask: torch.Tensor | None  # (B, P), False for padding; None where no prompt is padded
    prompt: int  # P
    group: int  # G
    length: int  # C
    cell: torch.Tensor | None  # (B, T), the grid's cell of each completion token; None where the grid is full
    token: torch.Tensor | None  # (B, G * C), the completion token in each cell, 0 for an empty cell
    real: torch.Tensor  # (B, T), False for the padding on the right
    filled: torch.Tensor  # (B, G * C), False for an empty cell
    _blocks: Any = None  # flex_attention's mask, once one layer has made it

    @classmethod
    def of(cls, prompt_mask: torch.Tensor, completion_mask: torch.Tensor) -> "Packing":
        """The packing of prompts (B, P) and completions (B, G, C), whose masks are 1 for tokens."""
        group, length = completion_mask.shape[1:]
        padded = prompt_mask.bool()
        filled = completion_mask.flatten(1).bool()
        counts = filled.sum(1)
        tokens = int(counts.max())
        real = torch.arange(tokens, device=filled.device) < counts[:, None]
        cell = token = None
        if tokens < group * length or not bool(real.all()):
            cell = torch.argsort((~filled).to(torch.uint8), dim=1, stable=True)[:, :tokens]
            token = ((filled.cumsum(1) - 1) * filled).clamp(min=0)
        return cls(
            prompt_mask=None if bool(padded.all()) else padded,
            prompt=prompt_mask.shape[1],
            group=group,
            length=length,
            cell=cell,
            token=token,
            real=real,
            filled=filled,
        )

    def pack(self, grid: torch.Tensor) -> torch.Tensor:
        """(B, G * C) to (B, T)."""
        return grid if self.cell is None else grid.gather(1, self.cell)

    def unpack(self, row: torch.Tensor) -> torch.Tensor:
        """(B, T) to (B, G, C); an empty cell holds its row's first value."""
        grid = row if self.token is None else row.gather(1, self.token)
        return grid.unflatten(1, (self.group, self.length))

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """(B, H, P + T, D) over (B, K, P + T, D), where K divides H."""
        prompt = self.prompt
        if query.is_cuda and find_spec("triton") is not None:
            return flex_attention_over(self, query, key, value, scaling, compiled=True)
        of_prompt = prompt_attention(
            query[:, :, :prompt], key[:, :, :prompt], value[:, :, :prompt], self.prompt_mask, scaling
        )
        if query.shape[2] == prompt:
            return of_prompt
        shared = completion_attention if query.device.type == "cpu" else plain_completion_attention
        keys, values = (key[:, :, :prompt], key[:, :, prompt:]), (value[:, :, :prompt], value[:, :, prompt:])
        return torch.cat([of_prompt, shared(query[:, :, prompt:], keys, values, self, scaling)], 2)

    def lines(self, row: torch.Tensor) -> torch.Tensor:
        """(B, H, T, D) to the lines of the grid, (B * G, H, C, D); (B, H, T) to (B * G, H, C)."""
        if self.token is not None:
            row = torch.take_along_dim(row, _over(self.token, row), 2)
        return row.unflatten(2, (self.group, self.length)).transpose(1, 2).flatten(0, 1)

    def unlines(self, lines: torch.Tensor) -> torch.Tensor:
        """The inverse of `lines`; the padding on the right holds some other token's values."""
        grid = lines.unflatten(0, (-1, self.group)).transpose(1, 2).flatten(2, 3)
        return grid if self.cell is None else torch.take_along_dim(grid, _over(self.cell, grid), 2)


def _over(index: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return index[:, None, :, None] if states.ndim == 4 else index[:, None]


def prompt_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Causal attention of prompts over themselves; `mask` (B, P) is False for the padding on their left."""
    if mask is None:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    length = query.shape[2]
    causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    # A padding token sees itself: a row without any key would give NaN.
    own = torch.eye(length, dtype=torch.bool, device=query.device)
    seen = ((causal & mask[:, None]) | own)[:, None]
    return F.scaled_dot_product_attention(query, key, value, seen, scale=scaling, enable_gqa=True)


def flex_attention_over(
    packing: Packing, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, compiled: bool
) -> torch.Tensor:
    """`Packing.attend` in one call of a kernel that passes over the blocks that nobody sees (on CUDA).

    Args:
        compiled: False runs torch's slow form of it, which has no backward pass on the CPU.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if packing._blocks is None:
        batch, device = len(packing.real), query.device
        if packing.cell is None:
            cell = torch.arange(packing.real.shape[1], device=device).expand(batch, -1)
        else:
            cell = packing.cell
        owner = torch.cat([cell.new_zeros(batch, packing.prompt), cell // packing.length + 1], 1)
        prompt = packing.prompt_mask
        if prompt is None:
            prompt = torch.ones(batch, packing.prompt, dtype=torch.bool, device=device)
        real = torch.cat([prompt, packing.real], 1)

        def sees(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            related = (owner[b, k] == 0) | (owner[b, k] == owner[b, q])
            return ((q >= k) & real[b, k] & related) | (q == k)  # padding sees itself

        length = query.shape[2]
        packing._blocks = create_block_mask(sees, batch, None, length, length, device=str(device))
    function = _compiled_flex_attention() if compiled else flex_attention
    return function(query, key, value, block_mask=packing._blocks, scale=scaling, enable_gqa=True)


@cache
def _compiled_flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


Pair = tuple[torch.Tensor, torch.Tensor]  # of the prompt, and of the completions


def plain_completion_attention(
    query: torch.Tensor, keys: Pair, values: Pair, packing: Packing, scaling: float
) -> torch.Tensor:
    """Each completion over its prompt and itself by torch's own attention, with the prompt's keys copied for each."""
    batch, length = query.shape[0], packing.length
    device = query.device

    def joined(pair: Pair) -> torch.Tensor:  # (B * G, K, P + C, D)
        return torch.cat([pair[0].repeat_interleave(packing.group, 0), packing.lines(pair[1])], 2)

    prompt = packing.prompt_mask
    if prompt is None:
        prompt = torch.ones(batch, packing.prompt, dtype=torch.bool, device=device)
    within = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    mask = torch.cat([prompt[:, None].expand(-1, length, -1), within.expand(batch, -1, -1)], 2)
    out = F.scaled_dot_product_attention(
        packing.lines(query),
        joined(keys),
        joined(values),
        mask.repeat_interleave(packing.group, 0)[:, None],
        scale=scaling,
        enable_gqa=True,
    )
    return packing.unlines(out)


def completion_attention(
    query: torch.Tensor, keys: Pair, values: Pair, packing: Packing, scaling: float
) -> torch.Tensor:
    """The same by two flash calls that share the prompt's keys (on the CPU)."""
    return _Joined.apply(query, *keys, *values, packing, scaling)


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        prompt_key: torch.Tensor,
        key: torch.Tensor,
        prompt_value: torch.Tensor,
        value: torch.Tensor,
        packing: Packing,
        scaling: float,
    ) -> torch.Tensor:
        # Several query heads share a key head: over the prompt, where nothing is causal, they are more queries.
        heads, per_key = query.shape[1], query.shape[1] // key.shape[1]
        folded = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])
        bias = _bias(packing, folded)
        over_prompt, prompt_sum = _flash(folded, prompt_key, prompt_value, 0.0, False, attn_mask=bias, scale=scaling)
        lines = packing.lines(query), _by_head(packing, key, per_key), _by_head(packing, value, per_key)
        over_own, own_sum = _flash(*lines, 0.0, True, attn_mask=None, scale=scaling)
        over_prompt, prompt_sum = over_prompt.reshape(query.shape), prompt_sum.reshape(query.shape[:3])
        over_own, own_sum = packing.unlines(over_own), packing.unlines(own_sum)
        both = torch.logaddexp(prompt_sum, own_sum)
        share = (prompt_sum - both).exp()[..., None].to(query.dtype)
        out = torch.lerp(over_own, over_prompt, share)
        ctx.save_for_backward(query, prompt_key, key, prompt_value, value, out, both)
        ctx.packing, ctx.scaling, ctx.heads = packing, scaling, heads
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        query, prompt_key, key, prompt_value, value, out, both = ctx.saved_tensors
        packing, scaling = ctx.packing, ctx.scaling
        batch, key_heads, per_key = query.shape[0], key.shape[1], ctx.heads // key.shape[1]
        gradient = _of_real(packing, gradient)

        def fold(states: torch.Tensor) -> torch.Tensor:
            return states.reshape(batch, key_heads, -1, *states.shape[3:])

        folded = fold(query)
        prompt_part = _flash_backward(
            fold(gradient), folded, prompt_key, prompt_value, fold(out), fold(both), 0.0, False,
            attn_mask=_bias(packing, folded), scale=scaling,
        )  # fmt: skip
        own_part = _flash_backward(
            _of_filled(packing, packing.lines(gradient)), packing.lines(query), _by_head(packing, key, per_key),
            _by_head(packing, value, per_key), packing.lines(out), packing.lines(both), 0.0, True,
            attn_mask=None, scale=scaling,
        )  # fmt: skip
        for_query = prompt_part[0].reshape(query.shape) + packing.unlines(own_part[0])

        def gathered(lines: torch.Tensor) -> torch.Tensor:
            return _of_real(packing, packing.unlines(lines.unflatten(1, (key_heads, per_key)).sum(2)))

        for_query = _of_real(packing, for_query)
        return for_query, prompt_part[1], gathered(own_part[1]), prompt_part[2], gathered(own_part[2]), None, None


def _by_head(packing: Packing, states: torch.Tensor, repeats: int) -> torch.Tensor:
    return packing.lines(states).repeat_interleave(repeats, 1)


def _of_real(packing: Packing, row: torch.Tensor) -> torch.Tensor:
    """A row's gradient with zeros in its padding, which has taken no part."""
    return row if packing.cell is None else row * packing.real[:, None, :, None]


def _of_filled(packing: Packing, lines: torch.Tensor) -> torch.Tensor:
    """The lines' gradient with zeros in the empty cells, which hold copies of a row's first token."""
    return lines if packing.cell is None else lines * packing.filled.view(-1, 1, packing.length, 1)


def _bias(packing: Packing, folded: torch.Tensor) -> torch.Tensor | None:
    """What is added to the scores over the prompt: minus infinity for padding."""
    if packing.prompt_mask is None:
        return None
    bias = folded.new_zeros(packing.prompt_mask.shape).masked_fill(~packing.prompt_mask, -torch.inf)
    return bias[:, None, None].expand(-1, 1, folded.shape[2], -1)
