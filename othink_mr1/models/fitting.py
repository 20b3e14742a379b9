"""Do a model and its processor belong together? Asked before any training: some of what does not fit raises nothing."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel

from othink_mr1.errors import UserError
from othink_mr1.models.folder import text_settings
from othink_mr1.models.processor import IMAGE_TOKEN, Processor

_TOKENS = {
    "image_token_id": IMAGE_TOKEN,
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_PATCHES = {
    "patch_size": "patch_size",
    "temporal_patch_size": "temporal_patch_size",
    "merge_size": "spatial_merge_size",
}
_QUESTION = "What is this?"


def check_fit(folder: Path, config: dict[str, Any], processor: Processor) -> None:
    """Vocabulary, special tokens, patches and chat template of a model folder against its config.

    Raises:
        UserError: what does not fit.
    """
    tokenizer, images = processor.tokenizer, processor.image_processor
    vocabulary = text_settings(config).get("vocab_size", 0)
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model room for {vocabulary} (vocab_size); "
            "they are not of the same model"
        )
    for key, token in _TOKENS.items():
        if key in config and config[key] != (found := tokenizer.convert_tokens_to_ids(token)):
            raise UserError(f"{folder}: {key} is {config[key]} in config.json, and {token} is {found} in the tokenizer")
    for name in ("eos_token", "pad_token"):
        if getattr(tokenizer, name) is None:
            raise UserError(f"{folder}: the tokenizer has no {name}; tokenizer_config.json should name one")
    for own, model in _PATCHES.items():
        expected = config["vision_config"].get(model)
        if expected is not None and getattr(images, own) != expected:
            raise UserError(
                f"{folder}: preprocessor_config.json has {own} {getattr(images, own)}, and config.json says {expected}"
            )
    _check_template(folder, processor)


def run_a_picture(folder: Path, model: PreTrainedModel, processor: Processor) -> None:
    """Let the model answer a question about a picture.

    Raises:
        UserError: it does not take its processor's input, or its numbers are none.
    """
    prompts = processor.encode([_QUESTION], [Image.new("RGB", (64, 64), "white")]).to(model.device)
    try:
        with torch.no_grad():
            logits = model(**vars(prompts), logits_to_keep=1).logits
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: the model does not take its processor's input ({reason})") from error
    if not torch.isfinite(logits).all():
        raise UserError(f"{folder}: the model answers a picture with numbers that are none: its weights are broken")


def _check_template(folder: Path, processor: Processor) -> None:
    try:
        prompt = processor.chat(_QUESTION)
    except Exception as error:  # whatever the template's own code raises
        raise UserError(f"{folder}: the chat template cannot be used ({error})") from error
    ids = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if ids.count(processor.image_token_id) != 1:
        raise UserError(
            f"{folder}: the chat template puts {ids.count(processor.image_token_id)} {IMAGE_TOKEN} into a turn with "
            "one picture, and should put one; a Qwen-VL template is needed"
        )
    if _QUESTION not in prompt:
        raise UserError(f"{folder}: the chat template leaves out the question's text; a Qwen-VL template is needed")
