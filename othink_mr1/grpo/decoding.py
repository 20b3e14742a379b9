"""The cache of a group's decoding: keys and values of each prompt once, and of each completion its own.

A step's queries of all of a prompt's completions meet its keys in one matrix product. The rows are a grid of B
prompts and g completions each; when enough of them have ended, the grid shrinks.
"""

from collections.abc import Callable
from typing import Any

import torch

from othink_mr1.grpo.attention import prompt_attention

_GROWS_BY = 64  # tokens


class GroupCache:
    """Keys and values of every layer; what the model's layers know of it is `update` and `get_seq_length`.

    First the prompts (B, P) are computed, then `repeat` says how many completions each has, then single tokens of
    B * g rows follow, whose number `advance` counts.

    Args:
        prompt_mask: (B, P), 1 for tokens and 0 for the padding on their left.
        longest: completion tokens at most.
        fixed: every step's tensors have the same shapes and places, as a CUDA graph needs them: room for the longest
            completion from the start, and a mask over what is not written yet.
    """

    def __init__(self, prompt_mask: torch.Tensor, longest: int, fixed: bool = False) -> None:
        padded = prompt_mask.bool()
        self.prompt_mask = None if bool(padded.all()) else padded  # (B, P), False for padding
        self.longest, self.fixed = longest, fixed
        self.column = torch.full((1,), -1, device=prompt_mask.device)  # of the present token, for fixed shapes
        self.length = 0  # completion tokens so far
        self.group = 0  # completions of a prompt; 0 while the prompts are computed
        self._prompts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # (B, K, D, P) and (B, K, P, D)
        self._own: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # (B * g, K, room, D)

    def repeat(self, group: int) -> None:
        self.group = group

    def advance(self) -> None:
        """One more token of every row is about to come."""
        self.length += 1
        self.column += 1

    def get_seq_length(self, layer: int = 0) -> int:
        return self.length

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes a layer's new keys and values (rows, K, tokens, D) and gives them back."""
        if not self.group:
            # As the matrix products of every later step take them: else each of these would copy them first.
            self._prompts[layer] = (key.transpose(2, 3).contiguous(), value.contiguous())
            return key, value
        own = self._own.get(layer)
        if own is None or own[0].shape[2] < self.length:
            own = self._own[layer] = self._with_room(own, key)
        for kept, new in zip(own, (key, value), strict=True):
            if self.fixed:
                kept.index_copy_(2, self.column, new)
            else:
                kept[:, :, self.length - 1] = new[:, :, 0]
        return key, value

    def _with_room(
        self, own: tuple[torch.Tensor, torch.Tensor] | None, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        room = self.longest if self.fixed else min(self.longest, self.length - 1 + _GROWS_BY)
        # Zeros: what is masked still takes part in the products, and must be finite.
        made = tuple(like.new_zeros(len(like), like.shape[1], room, like.shape[3]) for _ in range(2))
        if own is not None:
            for new, old in zip(made, own, strict=True):
                new[:, :, : self.length - 1] = old[:, :, : self.length - 1]
        return made  # type: ignore[return-value]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """(B, H, P, D) over the prompts themselves, or (B * g, H, 1, D) over prompts and completions."""
        if not self.group:
            return prompt_attention(query, key, value, self.prompt_mask, scaling)
        prompt_key, prompt_value = self._prompts[layer]
        written = self.longest if self.fixed else self.length
        own_key, own_value = (states[:, :, :written].flatten(0, 1) for states in self._own[layer])
        batch, heads, size, length = prompt_key.shape
        group, per_key = self.group, query.shape[1] // heads
        # Plain bmm on three dimensions throughout: at this size matmul's bookkeeping costs as much as the product.
        rows = (query * scaling).view(-1, per_key, size)  # (B g K, r, D)
        folded = rows.view(batch, group, heads, -1).transpose(1, 2).reshape(batch * heads, -1, size)
        over_prompt = torch.bmm(folded, prompt_key.flatten(0, 1))  # (B K, g r, P)
        if self.prompt_mask is not None:
            seen = self.prompt_mask[:, None].expand(-1, heads, -1).flatten(0, 1)[:, None]
            over_prompt.masked_fill_(~seen, -torch.inf)
        over_own = torch.bmm(rows, own_key.transpose(1, 2))
        if self.fixed:
            ahead = torch.arange(written, device=query.device) > self.column
            over_own.masked_fill_(ahead, -torch.inf)
        over_own = over_own.view(batch, group, heads, -1)
        over_own = over_own.transpose(1, 2).reshape(batch * heads, group * per_key, -1)
        weights = torch.cat([over_prompt, over_own], 2).softmax(2, dtype=torch.float32).to(query.dtype)
        from_prompt = torch.bmm(weights[..., :length], prompt_value.flatten(0, 1))  # (B K, g r, D)
        own_weights = weights[..., length:].reshape(batch, heads, group, -1).transpose(1, 2)
        from_own = torch.bmm(own_weights.reshape(len(rows), per_key, -1), own_value)  # (B g K, r, D)
        out = from_prompt.view(batch, heads, group, -1).transpose(1, 2).reshape(from_own.shape)
        return (out + from_own).reshape(query.shape)

    def keep(self, prompts: torch.Tensor | None, rows: torch.Tensor, group: int) -> None:
        """Goes on with fewer rows.

        Args:
            prompts: the prompts that stay, or None where all do.
            rows: the rows that stay, a prompt after the other, `group` of each.
        """
        if prompts is not None:
            self._prompts = {i: (k[prompts], v[prompts]) for i, (k, v) in self._prompts.items()}
            self.prompt_mask = None if self.prompt_mask is None else self.prompt_mask[prompts]
        self._own = {i: (k[rows], v[rows]) for i, (k, v) in self._own.items()}
        self.group = group


Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # tokens (R,) and their positions (R,) to logits (R, V)


def stepper(step: Step, cache: GroupCache, token: torch.Tensor, position: torch.Tensor) -> Step:
    """`step`, or on CUDA with fixed shapes a recording of it, which costs one launch instead of some hundreds.

    Args:
        step: the model's pass over one token of every row, with `cache`.
        token, position: an example of its arguments; the grid of rows has to stay as it is.
    """
    if not (cache.fixed and token.is_cuda):
        return step
    return _Recorded(step, token, position)


class _Recorded:
    """A CUDA graph of a step. What the rehearsals write into the cache, the first real step writes over."""

    def __init__(self, step: Step, token: torch.Tensor, position: torch.Tensor) -> None:
        self.token, self.position = token.clone(), position.clone()
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(2):
                step(self.token, self.position)
        torch.cuda.current_stream().wait_stream(beside)
        self.graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = step(self.token, self.position)

    def __call__(self, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        self.token.copy_(token)
        self.position.copy_(position)
        self.graph.replay()
        return self.logits.clone()
