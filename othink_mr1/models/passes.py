"""A Qwen-VL forward pass in its two halves: the vision tower, then the language model.

They are called one by one so that what the vision tower says of a picture can serve several passes, and so that the
language model's attention can be told a layout that no attention mask describes. Both halves are the model's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from othink_mr1.models.processor import PromptBatch

# A mask of four dimensions is taken as it is: transformers builds none, and `attention` does without.
_NO_MASK = (1, 1, 1, 1)


@dataclass
class Features:
    """What the vision tower says of a batch's pictures."""

    tokens: torch.Tensor  # (image tokens of all pictures, hidden size)
    deepstack: list[torch.Tensor] | None = None  # Qwen3-VL: the same for each of its first layers

    @staticmethod
    def join(parts: "Sequence[Features]") -> "Features":
        """The features of several batches' pictures, one after the other."""
        layers = [part.deepstack for part in parts if part.deepstack is not None]
        deepstack = [torch.cat(layer) for layer in zip(*layers, strict=True)] if layers else None
        return Features(torch.cat([part.tokens for part in parts]), deepstack)


def image_features(model: PreTrainedModel, prompts: PromptBatch) -> Features:
    """The features of all pictures of a batch."""
    out = model.model.get_image_features(prompts.pixel_values, prompts.image_grid_thw, return_dict=True)
    layers = getattr(out, "deepstack_features", None)
    deepstack = None if layers is None else [torch.cat(list(layer)) for layer in layers]
    return Features(torch.cat(list(out.pooler_output)), deepstack)


def text_states(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    features: Features | None = None,
    cache: Any = None,
    **to_attention: Any,
) -> torch.Tensor:
    """The language model's last hidden states (B, L, hidden size).

    Args:
        input_ids: (B, L).
        position_ids: (3, B, L), M-RoPE.
        features: of the pictures whose placeholders `input_ids` has, in their order; None where it has none.
        cache: takes every layer's keys and values, or None.
        to_attention: what the attention function of `grpo.attention` is told.
    """
    embeddings = model.get_input_embeddings()(input_ids)
    vision = {}
    if features is not None:
        of_pictures = input_ids == model.config.image_token_id
        tokens = features.tokens.to(embeddings.dtype)
        embeddings = embeddings.masked_scatter(of_pictures[..., None], tokens)
        if features.deepstack is not None:
            vision = {"visual_pos_masks": of_pictures, "deepstack_visual_embeds": features.deepstack}
    return model.model.language_model(
        inputs_embeds=embeddings,
        position_ids=position_ids,
        attention_mask=embeddings.new_zeros(_NO_MASK),
        past_key_values=cache,
        use_cache=cache is not None,
        **vision,
        **to_attention,
    ).last_hidden_state


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
