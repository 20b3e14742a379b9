"""LoRA by peft: small trained matrices beside the layers of a base model that stays as it is (arXiv 2106.09685).

An adapter's folder holds `adapter_config.json` and `adapter_model.safetensors` in peft's layout, and `base.json`: which
base it belongs to, and the digest of that base's weights.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from othink_mr1.digests import file_digest
from othink_mr1.errors import UserError
from othink_mr1.models.folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE,
    FAMILIES,
    local_base,
    read_json,
    recorded_base,
)
from othink_mr1.models.hub import fetch, origin

_LORA = re.compile(r"\b(lora_[AB])\.")


def with_adapter(
    model: PreTrainedModel, rank: int, alpha: float, targets: str | Sequence[str], vision: bool, seed: int
) -> PeftModel:
    """`model` with an adapter that changes nothing yet; nothing else of it is trained.

    Args:
        rank, alpha: a layer's change is `alpha / rank * B A`, with A of `rank` rows.
        targets: names of the layers that get one, such as q_proj, or "all-linear": all but the head.
        vision: whether layers of the vision tower are among them.
        seed: of A; B begins at zero.

    Raises:
        UserError: no layer has such a name; or one that has shares its weight with another, or is no linear layer.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is embedding.weight
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=None if vision else r".*\bvisual\..*",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise UserError(f"lora_target_modules is {targets!r}: {str(error).splitlines()[0]}") from error
    if tied and model.get_output_embeddings() is not head:
        raise UserError(
            f"lora_target_modules is {targets!r}: the head's weight is the embeddings' too in this model, and merging "
            "would change both; leave the head out"
        )
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and not _LORA.search(name):
            raise UserError(f"lora_target_modules is {targets!r}: {name} is not of a linear layer; name linear ones")
    return adapted


def bare(model: torch.nn.Module) -> PreTrainedModel:
    """The Qwen-VL model itself, whose layers hold the adapter where there is one."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def save_adapter(model: PeftModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """The adapter alone.

    Args:
        weights: the model's state dict, where its own parameters are parts of them (FSDP).
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = get_peft_model_state_dict(model, weights, save_embedding_layers=False)
    save_file({name: value.contiguous() for name, value in found.items()}, folder / ADAPTER_WEIGHTS, {"format": "pt"})
    family = bare(model).config.model_type
    # As peft itself writes it, so that its AutoPeftModel knows the class.
    known = {"base_model_class": FAMILIES[family], "parent_library": f"transformers.models.{family}.modeling_{family}"}
    model.peft_config["default"].save_pretrained(str(folder), auto_mapping_dict=known)
    _rewrite(folder)


def adapter_weights(model: PeftModel, folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the adapter in `folder` by the names that they have in `model`.

    Raises:
        UserError: the adapter is of another form than the model's.
    """
    # In files the adapter has no name of its own.
    found = {_LORA.sub(r"\1.default.", k): v for k, v in load_file(folder / ADAPTER_WEIGHTS).items()}
    expected = {name: value.shape for name, value in model.state_dict().items() if "lora_" in name}
    wrong = sorted(name for name in {*found, *expected} if name not in found or found[name].shape != expected.get(name))
    if wrong:
        raise UserError(f"{folder}: the adapter does not fit the model ({wrong[0]})")
    return found


def record_base(adapter: Path, base: Path) -> None:
    """Note in an adapter's folder which base it belongs to: where that lies, as seen from the adapter; the model of the
    hub that it is, where it came from there; and the digest of its weights."""
    known = origin(base)
    told = {"path": os.path.relpath(base, adapter), **known, "sha256": weights_digest(base)}
    (adapter / BASE).write_text(json.dumps(told, indent=1), encoding="utf-8")
    if known:  # peft's own way to say it
        _rewrite(adapter, base_model_name_or_path=known["name"], revision=known["revision"])


def base_of(adapter: Path, base: Path | None = None) -> Path:
    """The folder of the base that an adapter belongs to: the one given, else the recorded one, else, where that is not
    there but came from the hub, the same one from there.

    Raises:
        UserError: it is not there, or it is not the one that the adapter was trained on.
    """
    recorded = recorded_base(adapter)
    found = base or local_base(adapter, recorded)
    if found is None:
        found = fetch(recorded["name"], recorded["revision"], f"{adapter}: its base")
    if weights_digest(found) != recorded["sha256"]:
        raise UserError(f"{adapter}: it was trained on another base than {found} (the digest of its weights differs)")
    return found


def weights_digest(model: Path) -> str:
    """sha256 over config.json and the weights of a model's folder, without which an adapter means something else.

    Raises:
        UserError: there is no such folder, or no weights in it.
    """
    files = [model / "config.json", *sorted(model.glob("*.safetensors"))]
    if len(files) < 2 or not files[0].is_file():
        raise UserError(f"{model}: no model's folder (config.json and *.safetensors)")
    return hashlib.sha256("".join(f"{file.name} {file_digest(file)}\n" for file in files).encode()).hexdigest()


def merge(base: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """`base` with the adapter's changes added to its weights."""
    config = LoraConfig.from_pretrained(str(adapter))
    config.base_model_name_or_path = base.name_or_path  # peft warns of any other, and knows no digests
    model = get_peft_model(base, config)
    model.load_state_dict(adapter_weights(model, adapter), strict=False)
    return model.merge_and_unload()


def _rewrite(adapter: Path, **changes: Any) -> None:
    """peft writes its sets in an order of chance; here the same adapter is the same file."""
    file = adapter / ADAPTER_CONFIG
    content = {**read_json(file), **changes}
    for name in ("target_modules", "modules_to_save"):
        if isinstance(content.get(name), list):
            content[name] = sorted(content[name])
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
