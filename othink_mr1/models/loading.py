"""Models from and to folders in Hugging Face's layout: safetensors only, no code from the folder."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from othink_mr1.errors import UserError
from othink_mr1.models.processor import Processor

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def check_model_folder(folder: Path) -> dict[str, Any]:
    """The folder's config, once it is sure that a model of a known family with safetensors weights lies there.

    Raises:
        UserError: no such folder, no config, another family, or no safetensors weights.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise UserError(f"{folder}: no config.json; a model folder in Hugging Face's layout is needed")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{config_file}: not JSON ({error})") from None
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in FAMILIES:
        raise UserError(f"{config_file}: model_type is {family!r}; it should be one of {', '.join(FAMILIES)}")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: no *.safetensors weights (pickled weights are not read)")
    return config


def load_model(folder: str | Path, dtype: str = "float32", device: str | torch.device | None = None) -> PreTrainedModel:
    """A Qwen-VL model in evaluation mode.

    Args:
        folder: a folder in Hugging Face's layout.
        dtype: float32, bfloat16 or float16.
        device: where it goes; None means CUDA where there is one, else the CPU.

    Raises:
        UserError: the folder does not hold such a model, or its weights cannot be read.
    """
    folder = Path(folder)
    check_model_folder(folder)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", use_safetensors=True, local_files_only=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder}: the model cannot be loaded ({str(error).splitlines()[0]})") from error
    except Exception as error:  # safetensors' own error type derives from Exception alone
        if type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"{folder}: the weights are broken ({error})") from error
    return model.to(device).eval()


def load_processor(folder: str | Path, max_pixels: int | None = None) -> Processor:
    """The processor that was saved with a model; see `Processor.from_pretrained`."""
    return Processor.from_pretrained(folder, max_pixels)


def save_model(model: PreTrainedModel, processor: Processor, folder: str | Path) -> None:
    """Weights, config, tokenizer, chat template and image processor into `folder`, as safetensors."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
