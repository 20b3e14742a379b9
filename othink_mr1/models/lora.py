"""LoRA by peft: small trained matrices beside the layers of a base model that stays as it is (arXiv 2106.09685).

An adapter's folder holds `adapter_config.json` and `adapter_model.safetensors` in peft's layout, and `base.json`: which
base it belongs to.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from othink_mr1.digests import folder_digest
from othink_mr1.errors import UserError
from othink_mr1.models.folder import read_json

WEIGHTS, BASE = "adapter_model.safetensors", "base.json"
# Where the adapter lies in the folder of a model that it was merged into.
SUBFOLDER = "adapter"


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
        UserError: no layer has such a name.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=None if vision else r".*\bvisual\..*",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise UserError(f"lora_target_modules is {targets!r}: {str(error).splitlines()[0]}") from error


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
    save_file({name: value.contiguous() for name, value in found.items()}, folder / WEIGHTS, {"format": "pt"})
    model.peft_config["default"].save_pretrained(str(folder))


def adapter_weights(model: PeftModel, folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the adapter in `folder` by the names that they have in `model`.

    Raises:
        UserError: the adapter is of another form than the model's.
    """
    # In files the adapter has no name of its own.
    found = {re.sub(r"\b(lora_[AB])\.", r"\1.default.", k): v for k, v in load_file(folder / WEIGHTS).items()}
    expected = {name: value.shape for name, value in model.state_dict().items() if "lora_" in name}
    wrong = sorted(name for name in {*found, *expected} if name not in found or found[name].shape != expected.get(name))
    if wrong:
        raise UserError(f"{folder}: the adapter does not fit the model ({wrong[0]})")
    return found


def record_base(adapter: Path, base: Path) -> None:
    """Note in an adapter's folder which base it belongs to: where that lies, and the digest of its content."""
    text = json.dumps({"path": str(base), "sha256": folder_digest(base)}, indent=1)
    (adapter / BASE).write_text(text, encoding="utf-8")


def base_of(adapter: Path) -> Path:
    """The folder of the base that an adapter belongs to.

    Raises:
        UserError: it is not there, or another one lies there by now.
    """
    recorded = read_json(adapter / BASE)
    base = Path(recorded["path"])
    if not base.is_dir():
        raise UserError(f"{adapter}: an adapter of {base}, which is not there")
    if folder_digest(base) != recorded["sha256"]:
        raise UserError(f"{adapter}: an adapter of another {base} than the one that lies there now")
    return base


def merge(base: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """`base` with the adapter's changes added to its weights."""
    model = get_peft_model(base, LoraConfig.from_pretrained(str(adapter)))
    model.load_state_dict(adapter_weights(model, adapter), strict=False)
    return model.merge_and_unload()
