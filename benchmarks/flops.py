"""Floating-point operations of whatever runs, by torch's own counter."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_OPS = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(query, *_as_heads_of(query, key, value))


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return sdpa_backward_flop_count(gradient, query, *_as_heads_of(query, key, value))


def _as_heads_of(query: Any, *others: Any) -> list[tuple[int, ...]]:
    """Fewer key heads than query heads are read several times; the counter wants as many."""
    return [(other[0], query[1], *other[2:]) for other in others]


def counter() -> FlopCounterMode:
    """Counts matrix products, convolutions and attention; a causal kernel counts as if it skipped nothing.

    The CPU's flash kernels are not in torch's table.
    """
    table = {
        _OPS._scaled_dot_product_flash_attention_for_cpu: _attention,
        _OPS._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=table)
