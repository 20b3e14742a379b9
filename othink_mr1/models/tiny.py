"""The demo's model: a Qwen2-VL of about a million parameters, built from scratch with its own tokenizer.

Architecture, chat template, special tokens and files are those of Qwen2-VL; only the sizes differ. So whatever
runs with it runs with Qwen2-VL-2B.
"""

from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from othink_mr1.models.processor import Processor

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
# One token each, as Qwen3's tokenizer has them: it keeps the demo's completions short.
MARKUP = ("<think>", "</think>", "<answer>", "</answer>")

# Qwen2-VL's template without its default system message, so that prompts stay short.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PATCH, MERGE = 8, 2


def build_processor(texts: Iterable[str], vocab_size: int = 640, picture_side: int = 64) -> Processor:
    """A byte-level BPE tokenizer trained on `texts` (any other text still encodes, byte by byte), and an image
    processor that scales every picture to about `picture_side` x `picture_side` pixels."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(MARKUP),
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKUP])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    side = picture_side * picture_side
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, size={"shortest_edge": side, "longest_edge": side}
    )
    return Processor(tokenizer, images)


def build_model(
    processor: Processor,
    hidden_size: int = 128,
    num_hidden_layers: int = 2,
    vision_depth: int = 3,
    vision_embed_dim: int = 96,
) -> Qwen2VLForConditionalGeneration:
    """A randomly initialised Qwen2-VL for `processor`'s vocabulary; the weights depend on torch's seed."""
    token = processor.tokenizer.convert_tokens_to_ids
    heads = hidden_size // 32
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": 3 * hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(1, heads // 2),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": vision_depth,
            "embed_dim": vision_embed_dim,
            "hidden_size": hidden_size,
            "num_heads": max(2, vision_embed_dim // 24),
            "mlp_ratio": 2,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "in_channels": 3,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.pad_token_id = token("<|endoftext|>")
    model.generation_config.eos_token_id = token("<|im_end|>")
    return model.to(torch.float32)
