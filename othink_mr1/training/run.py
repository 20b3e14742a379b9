"""One training run from its last checkpoint to its saved model."""

import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers

from othink_mr1.errors import UserError
from othink_mr1.models.folder import SUBFOLDER
from othink_mr1.models.loading import load_model, save_model
from othink_mr1.models.lora import record_base
from othink_mr1.stages import replace_folder
from othink_mr1.training import together
from othink_mr1.training.callbacks import StopAndReport
from othink_mr1.training.fingerprint import Home, siblings
from othink_mr1.training.logs import LogFile, write_curves
from othink_mr1.training.trainer import VisionLanguageTrainer

_NOT_WRITABLE = {
    errno.ENOSPC: "No space left",
    errno.EDQUOT: "quota exceeded",
    errno.EROFS: "Read-only file system",
    errno.EACCES: "Permission denied",
}


class Reporter(Protocol):
    """What a run tells its progress to, and asks whether to stop: the step's `harness.Stage`."""

    stop_requested: Any

    def progress(self, done: int, total: int, what: str) -> None: ...
    def note(self, **facts: Any) -> None: ...
    def raise_if_stopped(self) -> None: ...


@dataclass(frozen=True)
class Outputs:
    """Where a run's results go."""

    name: str  # such as grpo_d-counting

    @property
    def model(self) -> Path:
        return Path("models") / self.name

    @property
    def curves(self) -> Path:
        return Path("training") / self.name / "curves.csv"

    @property
    def completions(self) -> Path:
        return Path("training") / self.name / "completions"

    @property
    def log(self) -> Path:
        return Path("training") / self.name / "log.jsonl"


def prepare_torch(threads: int) -> None:
    """Fixed thread counts (the last bits of a result depend on them) and a quiet transformers."""
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def machine_arguments(checkpoints: Path, seed: int) -> dict[str, Any]:
    """The TrainingArguments that no setting decides: where checkpoints go, and what this machine has."""
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(checkpoints),
        "seed": seed,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
    }


def run(
    make_trainer: Callable[[list[transformers.TrainerCallback]], VisionLanguageTrainer],
    home: Home,
    outputs: Outputs,
    reporter: Reporter,
    savings: Sequence[str] = (),
) -> None:
    """Trains, or goes on from the last checkpoint, and saves model, curves and log.

    A run that was asked to stop ends with a checkpoint, as interrupted; its outputs stay away.

    Args:
        savings: what would save memory, for the message where it runs out.

    Raises:
        UserError: something cannot be written (the last checkpoint stays), memory ran out, or a reward failed.
    """
    if home.resumed_anyway:
        reporter.note(resumed_anyway="; ".join(f"step {step}: {what}" for step, what in home.resumed_anyway))
    log = LogFile(outputs.log, [step for step, _ in home.resumed_anyway])
    watch = StopAndReport(reporter.progress, reporter.stop_requested.is_set)
    with trouble_in_words(home.folder, savings):
        trainer = make_trainer([log, watch])
        trainer.train(resume_from_checkpoint=True)
        if not watch.stopped:
            save_whole(trainer, outputs.model)
            if trainer.args.should_save:
                write_curves(trainer.state.log_history, outputs.curves)
    together.barrier()
    if watch.stopped:
        reporter.raise_if_stopped()
    # A stage that ended well needs neither its checkpoints nor those of its earlier settings.
    for folder in [home.folder, *siblings(home.folder)] if trainer.args.should_save else []:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def trouble_in_words(folder: Path, savings: Sequence[str] = ()) -> Iterator[None]:
    """Turns the several ways in which Python, torch and safetensors say that a file cannot be written, or that memory
    is out, into one line.

    Raises:
        UserError: something could not be written in or near `folder`, or memory ran out.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
            reason = (text.splitlines() or ["no more could be had"])[0][:160]
            told = f"; {'; '.join(savings)}" if savings else ""
            raise UserError(f"out of memory ({reason}); the last whole checkpoint is kept{told}") from error
        if isinstance(error, OSError):
            failed = error.errno in _NOT_WRITABLE
        else:
            # safetensors has an exception of its own, and torch's writer raises RuntimeError with a line of C++.
            failed = type(error).__name__ == "SafetensorError" and any(word in text for word in _NOT_WRITABLE.values())
            failed |= "inline_container" in text or "PytorchStreamWriter" in text
        if not failed:
            raise
        reason = text.splitlines()[0][:160]
        raise UserError(
            f"{folder}: a checkpoint or model could not be written ({reason}): free some space, or make it writable, "
            "and run again; the last whole checkpoint is kept"
        ) from error


def save_whole(trainer: VisionLanguageTrainer, folder: Path) -> None:
    """The trained model in `folder`, written beside and renamed; every process has to call it.

    With LoRA it is, as `lora_save` says, the adapter alone, or the model that it was merged into, so that whoever uses
    the folder need not know of it, with the adapter by itself in `adapter/`.
    """
    trainer.mark("saving the model")
    beside = folder.with_name(f".{folder.name}.part")
    if trainer.args.should_save:
        shutil.rmtree(beside, ignore_errors=True)
    merged = bool(trainer.args.lora_r) and trainer.args.lora_save == "merged"
    place = beside / SUBFOLDER if merged else beside
    trainer.save_model(str(place))
    if trainer.args.should_save:
        if trainer.args.lora_r:
            record_base(place, Path(trainer.bare().name_or_path))
        if merged:
            save_model(load_model(place, device="cpu"), trainer.processor, beside)
        replace_folder(beside, folder)
