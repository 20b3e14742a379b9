"""Is this folder a whole Qwen-VL model? Read from its small files and the heads of its weights, in a moment.

What does not fit would otherwise show after gigabytes were read, or never: transformers fills weights that are missing
with random numbers.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from othink_mr1.errors import UserError

# model_type -> the class that answers to pictures
FAMILIES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
_TRAINABLE = ("F32", "BF16", "F16")
# In the folder of a LoRA adapter: peft's settings, and which base it belongs to.
ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
# Where the adapter lies in the folder of a model that it was merged into.
SUBFOLDER = "adapter"
# A head of more bytes than this is none: safetensors itself refuses it.
_LARGEST_HEAD = 100_000_000


def check_model_folder(folder: Path) -> dict[str, Any]:
    """The folder's config, once it is sure that a whole model of a known family with safetensors weights lies there.

    Raises:
        UserError: what is missing, broken or does not fit.
    """
    config = _config(folder)
    tensors: dict[str, dict[str, Any]] = {}
    for file in _weight_files(folder):
        tensors |= tensors_in(file)
    _check_listed(folder, tensors)
    _check_weights(folder, config, tensors)
    return config


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds a LoRA adapter (`othink_mr1.models.lora`) and no whole model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def recorded_base(adapter: Path) -> dict[str, str]:
    """What an adapter's folder says of its base: `path`, `sha256`, and `name` and `revision` of one of the hub.

    Raises:
        UserError: it says nothing, or not that.
    """
    if not (adapter / BASE).is_file():
        raise UserError(f"{adapter}: no {BASE}, which says of which model it is an adapter")
    found = read_json(adapter / BASE)
    needed = ("path", "sha256", *(("revision",) if isinstance(found, dict) and "name" in found else ()))
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in needed):
        raise UserError(f"{adapter / BASE}: {', '.join(needed)} are needed, as text; `othink run` writes it")
    return found


def local_base(adapter: Path, recorded: dict[str, str]) -> Path | None:
    """The folder of the base that `recorded_base` tells of; None where it is not there, but on the hub.

    Raises:
        UserError: it is in neither place.
    """
    found = Path(os.path.normpath(adapter / recorded["path"]))
    if found.is_dir():
        return found
    if "name" in recorded:
        return None
    raise UserError(f"{adapter}: an adapter of {found}, which is not there")


def text_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a config: nested in newer ones, at the top in older ones."""
    return config.get("text_config") or config


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if is_adapter(folder):
        raise UserError(f"{folder}: a LoRA adapter; `othink merge {folder} OUT` makes a whole model of it and its base")
    if not file.is_file():
        raise UserError(f"{folder}: no config.json; a model folder in Hugging Face's layout is needed")
    config = read_json(file)
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in FAMILIES:
        what = "" if not isinstance(config, dict) or "vision_config" in config else ", a model without a vision tower"
        raise UserError(f"{file}: model_type is {family!r}{what}; it should be one of {', '.join(FAMILIES)}")
    made_for = config.get("architectures") or [FAMILIES[family]]
    if FAMILIES[family] not in made_for:
        raise UserError(f"{file}: architectures is {made_for}; it should be {FAMILIES[family]}, which answers")
    if "vision_config" not in config:
        raise UserError(f"{file}: no vision_config; a model with its vision tower is needed")
    if "quantization_config" in config:
        raise UserError(f"{file}: the weights are quantised, which cannot be trained; take the model without it")
    return config


def _weight_files(folder: Path) -> list[Path]:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        listed = _weight_map(index)
        for name in sorted(set(listed.values())):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: {name} is missing, which {index.name} lists; fetch the model again")
        return [folder / name for name in sorted(set(listed.values()))]
    if single.is_file():
        return [single]
    if any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: the weights are in several files, and {index.name}, which lists them, is missing")
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    found = f"; {pickled[0]} holds pickled weights, which are not read" if pickled else ""
    raise UserError(f"{folder}: no *.safetensors weights{found}")


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise UserError(f"{index}: no weight_map; fetch the model again")
    outside = [name for name in found.values() if Path(name).name != name]
    if outside:
        raise UserError(f"{index}: {outside[0]!r} is no name of a file in this folder")
    return found


def tensors_in(file: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a safetensors file, from its head alone: name -> dtype, shape and place.

    Raises:
        UserError: it is no such file, or was cut short.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            head = json.loads(stream.read(length)) if 8 + length <= min(size, _LARGEST_HEAD) else None
        except ValueError:
            head = None
    if not isinstance(head, dict):
        raise UserError(f"{file}: not a safetensors file, or cut short ({size} bytes); fetch it again")
    head.pop("__metadata__", None)
    end = 8 + length + max((tensor["data_offsets"][1] for tensor in head.values()), default=0)
    if end != size:
        raise UserError(f"{file}: {size} bytes, and its head speaks of {end}: it was cut short; fetch it again")
    return head


def _check_listed(folder: Path, tensors: Iterable[str]) -> None:
    index = folder / "model.safetensors.index.json"
    absent = sorted(set(_weight_map(index)) - set(tensors)) if index.is_file() else []
    if absent:
        raise UserError(f"{folder}: {absent[0]} is in no file, and {index.name} lists it; fetch the model again")


def _check_weights(folder: Path, config: dict[str, Any], tensors: dict[str, dict[str, Any]]) -> None:
    for name, tensor in tensors.items():
        if tensor["dtype"] not in _TRAINABLE:
            allowed = ", ".join(_TRAINABLE)
            raise UserError(f"{folder}: {name} is {tensor['dtype']}, which cannot be trained; weights in {allowed} can")
    if not any("visual." in name for name in tensors):
        raise UserError(f"{folder}: the weights hold no vision tower (visual.*); a whole model is needed")
    text = text_settings(config)
    expected = [text.get("vocab_size"), text.get("hidden_size")]
    for name, tensor in tensors.items():
        if name.endswith("embed_tokens.weight") and tensor["shape"] != expected:
            raise UserError(
                f"{folder}: {name} is {tensor['shape']}, and config.json says {expected} (vocab_size, hidden_size)"
            )
