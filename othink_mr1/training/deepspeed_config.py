"""The DeepSpeed configuration of a training: ZeRO stage 1 or 2, from a JSON file or the ready one.

What params.yaml says already is "auto" in it, which is transformers' word for "as in TrainingArguments".
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from othink_mr1.errors import UserError

READY: dict[str, Any] = {"zero_optimization": {"stage": 2}}

_SETTINGS = {
    "train_batch_size": "per_device_train_batch_size, gradient_accumulation_steps and training.launch",
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
    "bf16.enabled": "training.launch.mixed_precision",
}
_DROPPED = "a step whose gradient is not finite has to be dropped"
# Key, the values that it may have (None: it is not there), and what to know of it.
_RULES: list[tuple[str, tuple[Any, ...], str]] = [
    (
        "zero_optimization.stage",
        (1, 2),
        "the rollout needs whole weights; to share out those, too, take training.launch.strategy fsdp",
    ),
    ("optimizer", (None,), "the optimiser is the method's: learning_rate, optim, adam_beta1, ..."),
    ("scheduler", (None,), "the schedule is the method's: lr_scheduler_type, warmup_steps"),
    ("fp16.enabled", (None, False, "auto"), "half precision is bf16: training.launch.mixed_precision"),
    ("torch_autocast.enabled", (None, False), "half precision is training.launch.mixed_precision"),
    ("bf16.check_grad_overflow", (None, True), _DROPPED),
    ("zero_optimization.compute_grad_norm", (None, True), _DROPPED),
    *((key, (None, "auto"), f"the value is that of {setting}") for key, setting in _SETTINGS.items()),
]


def require() -> None:
    """Refuse to go on without the package.

    Raises:
        UserError: DeepSpeed is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "training.launch.strategy is deepspeed, which is not installed here: pip install -e '.[deepspeed]', "
            "or take fsdp"
        )


def read(path: Path) -> dict[str, Any]:
    """The configuration in a JSON file.

    Raises:
        UserError: it cannot be read, or holds what does not go together with the training.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no DeepSpeed configuration can be read there ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: should hold a DeepSpeed configuration, not {type(found).__name__}")
    return complete(found, str(path))


def complete(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The configuration with "auto" for all that params.yaml says.

    Args:
        config: as DeepSpeed documents it.
        where: what to call it.

    Raises:
        UserError: it holds what does not go together with the training.
    """
    for key, allowed, reason in _RULES:
        value = _value(config, key)
        if value not in allowed:
            shown = " or ".join("not there" if one is None else json.dumps(one) for one in allowed)
            raise UserError(f"{where}: {key} is {json.dumps(value)}; it should be {shown}: {reason}")
    auto = {key: "auto" for key in _SETTINGS if "." not in key}
    return {**config, **auto, "bf16": {**config.get("bf16", {}), "enabled": "auto"}}


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config
