"""Small random models of each family, a processor for them, and pictures."""

import numpy as np
import torch
from PIL import Image
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from othink_mr1.models.processor import Processor
from othink_mr1.models.tiny import MERGE, PATCH, build_model, build_processor

QUESTIONS = ["How many items are there?", "How many red items are there in the image?", "Count."]
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def processor() -> Processor:
    return build_processor([*QUESTIONS, "<think> 1 2 3 </think> <answer> 3 </answer>"], vocab_size=320, picture_side=32)


def pictures(count: int, width: int = 32, height: int = 32) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


def model(family: str, processor: Processor, scale: float = 4.0, seed: int = 0) -> PreTrainedModel:
    """A random model; its weights are scaled up so that it prefers some tokens clearly."""
    torch.manual_seed(seed)
    made = build_model(processor, hidden_size=64, num_hidden_layers=2, vision_depth=2, vision_embed_dim=48)
    if family != "qwen2_vl":
        made = _other(family, made)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return made.eval()


def _other(family: str, tiny: PreTrainedModel) -> PreTrainedModel:
    config = tiny.config
    tokens = {
        name: getattr(config, name)
        for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    text = {
        "vocab_size": config.text_config.vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "eos_token_id": config.text_config.eos_token_id,
        "pad_token_id": config.text_config.pad_token_id,
        "tie_word_embeddings": False,
    }
    vision = {
        "depth": 2,
        "hidden_size": 48,
        "out_hidden_size": 64,
        "num_heads": 2,
        "intermediate_size": 96,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "in_channels": 3,
    }
    if family == "qwen2_5_vl":
        vision |= {"window_size": 32, "fullatt_block_indexes": [1]}
        return Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **tokens)
        )
    vision |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1]}
    rope["mrope_interleaved"] = True
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **tokens)
    )
