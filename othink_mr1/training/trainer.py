"""What SFT and GRPO share: a `transformers.Trainer` whose checkpoints are whole or absent, and whose batches are
pictures and questions."""

import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from othink_mr1.grpo.shared_prefix import install
from othink_mr1.models.loading import load_model
from othink_mr1.models.processor import Processor
from othink_mr1.prompts import train_prompt
from othink_mr1.training.config import VisionLanguageConfig

Sample = dict[str, Any]
_BETWEEN = "between_logs.json"
# model, processor, samples, batch size, longest completion -> metrics
Validate = Callable[[PreTrainedModel, Processor, Sequence[Sample], int, int], dict[str, float]]


class Numbered(torch.utils.data.Dataset[Sample]):
    """Samples with their place in the dataset as `index`, which seeds their sampling noise."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return {**self.samples[index], "index": index}


class Collator:
    """Encodes the prompts of a batch; everything else of a sample but its picture goes along as it is."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def __call__(self, samples: list[Sample]) -> dict[str, Any]:
        texts = [sample.get("prompt") or train_prompt(sample["problem"]) for sample in samples]
        prompts = self.processor.encode(texts, [sample["image"] for sample in samples])
        return {"prompts": prompts, "samples": [{k: v for k, v in s.items() if k != "image"} for s in samples]}


class VisionLanguageTrainer(Trainer):
    """Trains on samples (dicts with `image`, `problem`, ...) and validates with `validate`.

    Checkpoints are written beside and renamed: a folder `checkpoint-N` is always whole.
    """

    args: VisionLanguageConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: VisionLanguageConfig,
        processor: Processor,
        train_samples: Sequence[Sample],
        validation_samples: Sequence[Sample] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        validate: Validate | None = None,
    ) -> None:
        if args.freeze_vision:
            model.model.visual.requires_grad_(False)
        install(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator(processor),
            train_dataset=Numbered(train_samples),
            eval_dataset=validation_samples,
            processing_class=processor,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self.processor = processor
        self.validate = validate
        # Losses here are means already; the Trainer divides them by the number of accumulated batches.
        self.model_accepts_loss_kwargs = False
        self._buffer: dict[str, list[float]] = defaultdict(list)
        self._saving_to: str | None = None
        self._resumed_from: str | None = None
        self._log_started, self._logged_before = time.perf_counter(), 0
        self.add_callback(_GoOnBetweenLogs(self))

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Trains from the start or from a checkpoint's folder; see `transformers.Trainer.train`."""
        self._resumed_from = resume_from_checkpoint
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def count_tokens(self, *masks: torch.Tensor) -> None:
        """Adds to `num_tokens`, the tokens seen so far; the Trainer's state carries the sum through a resume."""
        self.state.num_input_tokens_seen += sum(int(mask.sum()) for mask in masks)

    def note(self, **metrics: float) -> None:
        """Keeps metrics of a micro-batch until the next log, where their mean appears."""
        for name, value in metrics.items():
            self._buffer[name].append(float(value))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            now = time.perf_counter()
            steps = max(1, self.state.global_step - self._logged_before)
            logs = {**logs, **{name: sum(v) / len(v) for name, v in self._buffer.items()}}
            logs["num_tokens"] = self.state.num_input_tokens_seen
            logs["step_time"] = (now - self._log_started) / steps
            self._buffer.clear()
            self._log_started, self._logged_before = now, self.state.global_step
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """What `validate` says of the model as it is now."""
        if self.validate is None:
            raise ValueError("evaluation needs a `validate` function, such as training.validation.greedy_accuracy")
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        began = time.perf_counter()
        size, length = self.args.per_device_eval_batch_size, self.args.eval_max_new_tokens
        metrics = self.validate(model, self.processor, self.eval_dataset, size, length)
        self.log(dict(metrics))
        self._log_started += time.perf_counter() - began
        return metrics

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: PreTrainedModel | None = None) -> None:
        # Qwen-VL checkpoints are saved under older names of their weights. `from_pretrained` translates them; the
        # Trainer's own loading does not, and goes on with whatever weights it has, with no more than a warning.
        saved = load_model(resume_from_checkpoint, device="cpu")
        (model or self.model).load_state_dict(saved.state_dict(), strict=True)

    def _between_logs(self) -> dict[str, Any]:
        return {"loss": self._tr_loss.item(), "logged": self._globalstep_last_logged, "buffer": self._buffer}

    def _go_on_between_logs(self) -> None:
        self._log_started, self._logged_before = time.perf_counter(), self.state.global_step
        if self._resumed_from is None:
            return
        saved = json.loads((Path(self._resumed_from) / _BETWEEN).read_text(encoding="utf-8"))
        self._tr_loss.fill_(saved["loss"])
        self._globalstep_last_logged = saved["logged"]
        self._buffer.update(saved["buffer"])

    def _get_output_dir(self, trial: Any) -> str:
        return self._saving_to or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        unfinished = folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._saving_to = str(unfinished)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_to = None
        if self.args.should_save:
            (unfinished / name / _BETWEEN).write_text(json.dumps(self._between_logs()), encoding="utf-8")
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(unfinished / name, folder / name)
            shutil.rmtree(unfinished, ignore_errors=True)
            rotate_checkpoints(output_dir=str(folder), save_total_limit=self.args.save_total_limit, use_mtime=False)


class _GoOnBetweenLogs(TrainerCallback):
    """Takes up the sums of a log that a checkpoint fell into the middle of; the Trainer would begin them anew."""

    def __init__(self, trainer: VisionLanguageTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._go_on_between_logs()


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in `folder`, or None."""
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


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
        shown = [(name, (logs or {}).get(name)) for name in ("reward", "beta", "loss", "eval_accuracy")]
        self._metrics = "  ".join(f"{name} {value:.3g}" for name, value in shown if value is not None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.report(state.global_step, state.max_steps, self._metrics)
        if self.stop_requested() and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True
        return control
