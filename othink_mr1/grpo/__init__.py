"""GRPO and GRPO-D on shared prompts, one file for each part of the paper's equations.

`from othink_mr1.grpo import GRPODConfig, GRPODTrainer` is all that a training script needs.
"""

import importlib
from typing import Any

_PUBLIC = {"GRPODConfig": "config", "GRPODTrainer": "trainer"}
__all__ = ["GRPODConfig", "GRPODTrainer"]


def __getattr__(name: str) -> Any:
    # Looked up when asked for: whoever needs the rollout alone does not load the trainer.
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
