"""Models from and to folders in Hugging Face's layout: safetensors only, no code from the folder."""

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from othink_mr1.errors import UserError
from othink_mr1.models.folder import check_model_folder, is_adapter
from othink_mr1.models.processor import Processor
from othink_mr1.stages import replace_folder


def load_model(
    folder: str | Path,
    dtype: str = "float32",
    device: str | torch.device | None = None,
    base: str | Path | None = None,
) -> PreTrainedModel:
    """A Qwen-VL model in evaluation mode.

    Args:
        folder: a folder in Hugging Face's layout, or an adapter's, which is then merged into its base.
        dtype: float32, bfloat16 or float16.
        device: where it goes; None means CUDA where there is one, else the CPU.
        base: the folder of an adapter's base, where it does not lie where the adapter has it recorded.

    Raises:
        UserError: the folder does not hold such a model, its weights cannot be read, or the base is not the one that
            the adapter was trained on.
    """
    folder = Path(folder)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if is_adapter(folder):
        # Imported here: peft takes a second, and most folders hold a whole model.
        from othink_mr1.models.lora import base_of, merge

        # In 32 bits and on the CPU, as in a folder that was merged: both are the same model to the bit.
        whole = load_model(base_of(folder, None if base is None else Path(base)), device="cpu")
        model = merge(whole, folder)
        cast_weights(model, getattr(torch, dtype))
        model.config.dtype = getattr(torch, dtype)
        return model.to(device).eval()
    check_model_folder(folder)
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


def save_merged(adapter: Path, folder: Path, base: Path | None = None) -> None:
    """The whole model that an adapter and its base are, into `folder`, which appears when all of it is there.

    Args:
        base: as `load_model` takes it.

    Raises:
        UserError: `adapter` is none, its base is not to be had, or `folder` is there already.
    """
    if not is_adapter(adapter):
        raise UserError(f"{adapter}: no LoRA adapter (a folder with adapter_config.json and no config.json)")
    if folder.exists():
        raise UserError(f"{folder} is there already; give a folder that is not")
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        save_model(load_model(adapter, device="cpu", base=base), load_processor(adapter), beside)
        replace_folder(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def cast_weights(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """The weights alone, as `from_pretrained` has it: `model.to` would also round the angles of the positions."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
