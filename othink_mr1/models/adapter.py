"""What a LoRA adapter's folder says of it, from its small files alone. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from othink_mr1.models.folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    SUBFOLDER,
    is_adapter,
    local_base,
    read_json,
    recorded_base,
    tensors_in,
)


@dataclass(frozen=True)
class Adapter:
    """What a LoRA adapter is. `alone`: the folder holds nothing else; else it was merged into the model beside it.

    Attributes:
        vision: whether layers of the vision tower are among those that it changes.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    vision: bool
    alone: bool


def adapter_of(folder: Path) -> Adapter | None:
    """The adapter that a trained model's folder is or, in `adapter/`, was made by; None after a full training.

    Raises:
        UserError: its files cannot be read.
    """
    place = folder if is_adapter(folder) else folder / SUBFOLDER
    if not (place / ADAPTER_CONFIG).is_file():
        return None
    config = read_json(place / ADAPTER_CONFIG)
    vision = any("visual." in name for name in tensors_in(place / ADAPTER_WEIGHTS))
    return Adapter(config["r"], config["lora_alpha"], tuple(config["target_modules"]), vision, place == folder)


def lora_facts(adapter: Adapter | None) -> dict[str, str]:
    """What an adapter is, as tags or parameters; nothing where there is none."""
    if adapter is None:
        return {}
    return {
        "lora.r": str(adapter.rank),
        "lora.alpha": f"{adapter.alpha:g}",
        "lora.target_modules": ",".join(adapter.targets),
        "lora.vision_tower": "adapted" if adapter.vision else "frozen",
        "lora.saved": "adapter" if adapter.alone else "merged",
    }


def base_to_bundle(adapter: Path) -> Path | None:
    """The folder of an adapter's base; None where it can be had from the hub.

    Raises:
        UserError: it is not there.
    """
    recorded = recorded_base(adapter)
    return None if "name" in recorded else local_base(adapter, recorded)
