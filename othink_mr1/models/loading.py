"""Models from and to folders in Hugging Face's layout: safetensors only, no code from the folder."""

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from othink_mr1.errors import UserError
from othink_mr1.models.folder import check_model_folder, is_adapter
from othink_mr1.models.processor import Processor


def load_model(folder: str | Path, dtype: str = "float32", device: str | torch.device | None = None) -> PreTrainedModel:
    """A Qwen-VL model in evaluation mode.

    Args:
        folder: a folder in Hugging Face's layout, or an adapter's, which is then merged into its base.
        dtype: float32, bfloat16 or float16.
        device: where it goes; None means CUDA where there is one, else the CPU.

    Raises:
        UserError: the folder does not hold such a model, or its weights cannot be read.
    """
    folder = Path(folder)
    if is_adapter(folder):
        # Imported here: peft takes a second, and most folders hold a whole model.
        from othink_mr1.models.lora import base_of, merge

        return merge(load_model(base_of(folder), dtype, device), folder).eval()
    check_model_folder(folder)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model, told = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder}: the model cannot be loaded ({str(error).splitlines()[0]})") from error
    except Exception as error:  # safetensors' own error type derives from Exception alone
        if type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"{folder}: the weights are broken ({error})") from error
    missing = sorted(told["missing_keys"])
    if missing:  # transformers goes on with random numbers in their place
        raise UserError(f"{folder}: the weights lack {missing[0]} ({len(missing)} of the model's are not there)")
    return model.to(device).eval()


def load_processor(folder: str | Path, max_pixels: int | None = None) -> Processor:
    """The processor that was saved with a model; see `Processor.from_pretrained`."""
    return Processor.from_pretrained(folder, max_pixels)


def save_model(model: PreTrainedModel, processor: Processor, folder: str | Path) -> None:
    """Weights, config, tokenizer, chat template and image processor into `folder`, as safetensors."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
