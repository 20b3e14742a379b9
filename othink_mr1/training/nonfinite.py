"""Steps whose loss or gradient is not finite: they are dropped and counted, and too many in a row end the run."""

import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from othink_mr1.errors import UserError
from othink_mr1.training import deepspeed_engine, together

if TYPE_CHECKING:
    from othink_mr1.training.trainer import VisionLanguageTrainer


class DropNonFinite(TrainerCallback):
    """Looks at loss and gradient just before the optimiser takes a step.

    Where one of them is not finite in any process, the gradient is dropped in all: weights and optimiser stay as they
    are. A loss may be bad where the gradient is not.

    Attributes:
        total, in_a_row: how many steps were dropped.
    """

    def __init__(self, trainer: "VisionLanguageTrainer") -> None:
        self.trainer = trainer
        self.total, self.in_a_row = 0, 0
        self._bad_loss = False  # in one of the step's micro-batches

    def saw(self, loss: torch.Tensor) -> None:
        """Takes note of a micro-batch's loss."""
        self._bad_loss |= not torch.isfinite(loss)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.is_deepspeed_enabled:
            deepspeed_engine.drop_bad_losses(self.trainer.accelerator)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drops the gradient if need be.

        Raises:
            UserError: `max_skipped_steps` steps in a row were of this kind; what was trained before them is in the
                last checkpoint.
        """
        trainer, norm = self.trainer, self.trainer.grad_norm
        bad = together.any_of(self._bad_loss, args.device)
        self._bad_loss = False
        if math.isfinite(norm) and not bad:
            self.in_a_row = 0
            return
        for parameter in trainer.model.parameters():
            parameter.grad = None
        if trainer.is_deepspeed_enabled:  # has done so before
            deepspeed_engine.forget_drop(trainer.optimizer)
        self.total += 1
        self.in_a_row += 1
        step, most = state.global_step + 1, args.max_skipped_steps
        if trainer.is_world_process_zero():
            print(f"step {step}: loss or gradient (norm {norm}) is not finite; the step is skipped", flush=True)
        if self.in_a_row >= most:
            raise UserError(
                f"step {step}: loss or gradient was not finite in {most} steps in a row (norm {norm}); the last "
                f"checkpoint in {args.output_dir} is good: lower learning_rate, or look for what the rewards give"
            )
