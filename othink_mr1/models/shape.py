"""The sizes of a Qwen-VL model, from its config.json alone: parameters, and what a token costs. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from othink_mr1.models.folder import text_settings


def _config(family: str, text: tuple[int, ...], vision: dict[str, int], tied: bool) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    patches = {"depth": 32, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    return {
        "model_type": family,
        **dict(zip((*names, "vocab_size"), text, strict=True)),
        "vision_config": patches | vision,
        "tie_word_embeddings": tied,
    }


_QWEN2_VISION = {"embed_dim": 1280, "mlp_ratio": 4}
_QWEN2_5_VISION = {"hidden_size": 1280, "intermediate_size": 3420}
# Models of the hub whose sizes are wanted before they are fetched.
KNOWN = {
    "Qwen/Qwen2-VL-2B-Instruct": _config("qwen2_vl", (1536, 28, 12, 2, 8960, 151936), _QWEN2_VISION, True),
    "Qwen/Qwen2-VL-7B-Instruct": _config("qwen2_vl", (3584, 28, 28, 4, 18944, 152064), _QWEN2_VISION, False),
    "Qwen/Qwen2.5-VL-3B-Instruct": _config("qwen2_5_vl", (2048, 36, 16, 2, 11008, 151936), _QWEN2_5_VISION, True),
    "Qwen/Qwen2.5-VL-7B-Instruct": _config("qwen2_5_vl", (3584, 28, 28, 4, 18944, 152064), _QWEN2_5_VISION, False),
}
# The demo's own, as `models.tiny` builds it.
TINY = _config(
    "qwen2_vl", (128, 2, 4, 2, 384, 640), {"embed_dim": 96, "mlp_ratio": 2, "depth": 3, "patch_size": 8}, True
)


@dataclass(frozen=True)
class Shape:
    """The sizes that memory and time depend on. `key` is the width of all keys of a token, `query` of all queries;
    a layer is one of the language model, a block one of the vision tower."""

    hidden: int
    layers: int
    query: int
    key: int
    intermediate: int
    vocabulary: int
    language_parameters: int
    layer_parameters: int
    vision_depth: int
    vision_width: int
    vision_intermediate: int
    vision_parameters: int
    block_parameters: int
    patch: int
    merge: int

    @property
    def parameters(self) -> int:
        return self.language_parameters + self.vision_parameters

    def picture_tokens(self, pixels: int) -> int:
        """Tokens of a picture in the prompt."""
        return max(1, pixels // (self.patch * self.merge) ** 2)


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape of a model with this config.json, which `check_model_folder` has accepted."""
    text, vision = text_settings(dict(config)), config["vision_config"]
    hidden, layers, inner, vocabulary = (
        text[name] for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
    )
    head = text.get("head_dim") or hidden // text["num_attention_heads"]
    query, key = head * text["num_attention_heads"], head * text["num_key_value_heads"]
    # Qwen2's projections have biases, Qwen3's norms of queries and keys instead.
    small = 2 * head if config["model_type"] == "qwen3_vl" else query + 2 * key
    layer = hidden * (2 * query + 2 * key + 3 * inner) + small + 2 * hidden
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    language = layers * layer + hidden + vocabulary * hidden * (1 if tied else 2)

    width = vision.get("embed_dim") or vision["hidden_size"]
    vision_inner = vision.get("intermediate_size") or int(width * vision["mlp_ratio"])
    gated = config["model_type"] == "qwen2_5_vl"
    mlp = (3 if gated else 2) * width * vision_inner + (2 if gated else 1) * vision_inner + width
    block = 4 * width * width + 4 * width + mlp + (2 if gated else 4) * width
    merged = width * vision["spatial_merge_size"] ** 2
    merger = merged * merged + merged + merged * hidden + hidden
    patch = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2 * width
    tower = vision["depth"] * block + merger + patch + (width if gated else 2 * width)
    if config["model_type"] == "qwen3_vl":
        deep = len(vision.get("deepstack_visual_indexes", ()))
        tower += width + vision["num_position_embeddings"] * width + deep * (merger + 2 * merged)
    return Shape(
        hidden, layers, query, key, inner, vocabulary, language, layer, vision["depth"], width, vision_inner, tower,
        block, vision["patch_size"], vision["spatial_merge_size"],
    )  # fmt: skip
