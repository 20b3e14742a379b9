"""What happens at the joints of a training: checkpoints by the clock, progress, stops, and the names of the phases."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from othink_mr1.training import together

if TYPE_CHECKING:
    from othink_mr1.training.trainer import VisionLanguageTrainer


class SumTokens(TrainerCallback):
    """Brings together what the processes have counted in a step, before it is logged or saved."""

    def __init__(self, trainer: "VisionLanguageTrainer") -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.sum_tokens()


class MarkPhases(TrainerCallback):
    """The phases that lie between what the trainers themselves do."""

    def __init__(self, trainer: "VisionLanguageTrainer") -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.mark("optimiser")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.mark("between steps")


class SaveByTheClock(TrainerCallback):
    """Asks for a checkpoint when the last one is too long ago; saving changes nothing of what is trained."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save |= together.any_of(time.monotonic() - self._last >= self.seconds, args.device)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last = time.monotonic()


class StopAndReport(TrainerCallback):
    """Tells how far training is, and ends it after a checkpoint once a stop is asked for."""

    def __init__(self, report: Callable[[int, int, str], None], stop_requested: Callable[[], bool]) -> None:
        self.report = report
        self.stop_requested = stop_requested
        self.stopped = False
        self._metrics = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report(state.global_step, state.max_steps, "")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        # An RL loss says nothing, its reward does.
        names = ("reward", "beta", "eval_accuracy") if "reward" in logs else ("loss", "eval_accuracy")
        shown = [f"{name} {logs[name]:.3g}" for name in names if name in logs]
        if "tokens_per_second" in logs:
            shown.append(f"{logs['tokens_per_second']:.0f} tokens/s")
        self._metrics = "  ".join(shown) or self._metrics
        self.report(state.global_step, state.max_steps, self._metrics)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.report(state.global_step, state.max_steps, self._metrics)
        return self._stop_if_asked(args, state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return self._stop_if_asked(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        already = self.stopped
        control = self._stop_if_asked(args, state, control)
        if self.stopped and not already:
            control.should_save = False  # this one is it
        return control

    def _stop_if_asked(self, args: Any, state: Any, control: Any) -> Any:
        """Validation and saving may take as long as a step: none is begun after them."""
        if not self.stopped and state.global_step < state.max_steps:
            self.stopped = together.any_of(self.stop_requested(), args.device)
            control.should_save |= self.stopped
            control.should_training_stop |= self.stopped
        return control
