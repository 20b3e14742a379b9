"""A `transformers.Trainer` whose checkpoints are whole or absent, and which goes on from one with the same bits."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback

from othink_mr1.models.loading import load_model
from othink_mr1.models.lora import adapter_weights, bare, save_adapter
from othink_mr1.models.processor import Processor
from othink_mr1.training import checkpoints, phases, sharding, together
from othink_mr1.training.config import VisionLanguageConfig
from othink_mr1.training.meter import Meter

_BETWEEN = "between_logs.json"


class ResumableTrainer(Trainer):
    """Checkpoints are written beside and renamed: a folder `checkpoint-N` is always whole, and verified before it is
    used. One process writes; where weights are shared out, all have to take part.

    Attributes:
        is_sharded: whether weights are shared out (`training.sharding`).
        meter: what is noted until the next log, which a checkpoint may fall before.
    """

    args: VisionLanguageConfig
    processor: Processor
    is_sharded: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.meter = Meter()
        self._saving_to: str | None = None
        self._resumed_from: str | None = None
        self.add_callback(_GoOnBetweenLogs(self))

    def bare(self) -> PreTrainedModel:
        """The Qwen-VL model inside what is wrapped around it."""
        return bare(self.accelerator.unwrap_model(self.model))

    def mark(self, name: str) -> None:
        """Says which part of a step begins, such as "backward"; it lasts until the next one."""
        phases.mark(self.state.global_step, name)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Trains; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: a checkpoint's folder; True goes on from the newest whole one of `output_dir`, or
                begins where there is none.

        Raises:
            UserError: another process writes checkpoints to `output_dir`.
        """
        folder = Path(self.args.output_dir)
        writes = self.is_world_process_zero()
        with checkpoints.held(folder) if writes else nullcontext():
            found = resume_from_checkpoint
            if found is True:
                found = together.first(str(checkpoints.newest(folder) or "") if writes else None)
            self._resumed_from = str(found) if found else None
            if found and writes:
                print(f"going on from {found}", flush=True)
            return super().train(resume_from_checkpoint=self._resumed_from, **kwargs)

    def _run_epoch(self, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # Going on from the last step's checkpoint, to save the model alone: the Trainer would make one step more.
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    # What a checkpoint holds beside the Trainer's own

    def extra_state(self) -> dict[str, Any]:
        """Plain values of this process."""
        return {}

    def take_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of `extra_state`."""

    def save_more(self, folder: Path) -> None:
        """Writes a subclass's own files into a checkpoint that is being made; every process calls it."""

    def load_more(self, folder: Path) -> None:
        """The inverse of `save_more`."""

    def _between_logs(self) -> dict[str, Any]:
        """The sums of a log that a checkpoint falls into the middle of; the Trainer would begin them anew."""
        return {
            "loss": self._tr_loss.item(),
            "total_loss": self._total_loss_scalar,
            "logged": self._globalstep_last_logged,
            "buffer": self.meter.noted,
            "extra": self.extra_state(),
        }

    def _go_on_between_logs(self) -> None:
        self.meter.begin(self.state.global_step, self.state.num_input_tokens_seen)
        if self._resumed_from is None:
            return
        saved = json.loads((Path(self._resumed_from) / _BETWEEN).read_text(encoding="utf-8"))[self.args.process_index]
        self._tr_loss.fill_(saved["loss"])
        self._total_loss_scalar = saved["total_loss"]
        self._globalstep_last_logged = saved["logged"]
        self.meter.noted.update(saved["buffer"])
        self.take_extra_state(saved["extra"])
        self.load_more(Path(self._resumed_from))

    # Writing

    def _get_output_dir(self, trial: Any) -> str:
        return self._saving_to or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.mark("saving")
        folder, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        unfinished = folder / checkpoints.UNFINISHED
        if self.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)
        together.barrier()
        self._saving_to = str(unfinished)
        try:
            super()._save_checkpoint(model, trial)
            self.save_more(unfinished / name)
            between = together.every(self._between_logs())  # by then every process's files are there
            if self.args.should_save:
                (unfinished / name / _BETWEEN).write_text(json.dumps(between), encoding="utf-8")
                checkpoints.keep(folder, name, self.args.save_total_limit)
            together.barrier()
        finally:
            self._saving_to = None
            if self.args.should_save:
                shutil.rmtree(unfinished, ignore_errors=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights and processor, the adapter's alone where there is one; every process has to call it."""
        folder = Path(output_dir or self.args.output_dir)
        weights = sharding.whole_weights(self.model) if self.is_sharded else None
        if not self.args.should_save:
            return
        if self.args.lora_r:
            save_adapter(self.accelerator.unwrap_model(self.model), folder, weights)
        else:
            self.bare().save_pretrained(folder, state_dict=weights)
        self.processor.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        sharding.save_optimizer(self.model, self.optimizer.optimizer, Path(output_dir) / "optimizer.pt")
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    # Reading

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: PreTrainedModel | None = None) -> None:
        target, folder = model or self.model, Path(resume_from_checkpoint)
        writes = self.args.should_save
        if self.args.lora_r:
            weights = adapter_weights(target, folder)
        else:
            # Qwen-VL checkpoints are saved under older names of their weights. `from_pretrained` translates them; the
            # Trainer's own loading does not, and goes on with whatever weights it has, with no more than a warning.
            needed = writes or not self.is_sharded  # shards are sent out by the first process
            weights = load_model(folder, device="cpu").state_dict() if needed else {}
        if self.is_sharded:
            sharding.take_weights(target, weights)
        else:
            target.load_state_dict(weights, strict=not self.args.lora_r)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        sharding.load_optimizer(self.model, self.optimizer.optimizer, Path(checkpoint) / "optimizer.pt")
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))


class _GoOnBetweenLogs(TrainerCallback):
    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._go_on_between_logs()
