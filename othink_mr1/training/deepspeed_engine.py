"""What trainers need to know of DeepSpeed beyond what transformers does.

DeepSpeed takes its step at the end of the last backward pass, before anyone could look at loss and gradient. It drops a
gradient that is not finite by itself. So a loss that is not finite is made into such a gradient.
"""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.deepspeed import DeepSpeedEngineWrapper

from othink_mr1.models.loading import cast_weights
from othink_mr1.training import together


class _BadLossBadGradient(DeepSpeedEngineWrapper):
    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self._bad = False  # whether a loss of the step's micro-batches was

    def backward(self, loss: torch.Tensor, sync_gradients: bool = True, **kwargs: Any) -> None:
        self._bad |= not torch.isfinite(loss)
        if sync_gradients:
            if together.any_of(self._bad, loss.device):
                loss = loss * torch.nan
            self._bad = False
        super().backward(loss, sync_gradients=sync_gradients, **kwargs)


def drop_bad_losses(accelerator: Accelerator) -> None:
    """From now on a step with a loss that is not finite, in any process, is dropped."""
    accelerator.deepspeed_engine_wrapped = _BadLossBadGradient(accelerator.deepspeed_engine_wrapped.engine)


def cast(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Gives `model` the precision that DeepSpeed gives the trained one: of its weights, and not of its buffers."""
    cast_weights(model, accelerator.state.deepspeed_plugin.hf_ds_config.dtype())


def forget_drop(optimizer: Any) -> None:
    """Lets the schedule go on after a step that was dropped, as it does without DeepSpeed.

    Args:
        optimizer: accelerate's.
    """
    optimizer.optimizer.overflow = False
