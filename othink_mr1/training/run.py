"""One training run from its last checkpoint to its saved model."""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
import transformers

from othink_mr1.digests import folder_digest
from othink_mr1.errors import UserError
from othink_mr1.models.loading import save_model
from othink_mr1.training.logs import LogFile, write_curves
from othink_mr1.training.trainer import StopAndReport, VisionLanguageTrainer, last_checkpoint

CHECKPOINTS = Path(".othink/checkpoints")


class Reporter(Protocol):
    """What a run tells its progress to, and asks whether to stop: the step's `harness.Stage`."""

    stop_requested: Any

    def progress(self, done: int, total: int, what: str) -> None: ...
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
        "save_total_limit": 2,
    }


def fingerprint(settings: Any, inputs: Iterable[Path]) -> str:
    """What a checkpoint belongs to: code, settings, input files, threads and processes.

    The code is that of every module of this project that is loaded: call it after the imports.
    """
    files = {
        name: str(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] in ("othink_mr1", "steps", "__main__") and getattr(module, "__file__", None)
    }
    content = {
        "code": {name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for name, file in files.items()},
        "settings": settings,
        "inputs": {
            str(p): folder_digest(p) if p.is_dir() else hashlib.sha256(p.read_bytes()).hexdigest() for p in inputs
        },
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": [torch.__version__, transformers.__version__, numpy.__version__],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def checkpoint_folder(stage: str, settings: Any, inputs: Iterable[Path]) -> Path:
    """Where a run with these settings, inputs and code keeps its checkpoints."""
    return CHECKPOINTS / f"{stage}-{fingerprint(settings, inputs)}"


def run(
    make_trainer: Callable[[list[transformers.TrainerCallback]], VisionLanguageTrainer],
    checkpoints: Path,
    outputs: Outputs,
    reporter: Reporter,
) -> None:
    """Trains, or goes on from the last checkpoint, and saves model, curves and log.

    A run that was asked to stop ends with a checkpoint, as interrupted; its outputs stay away.

    Raises:
        UserError: the disk is full (the last checkpoint stays), or a reward failed.
    """
    log = LogFile(outputs.log)
    watch = StopAndReport(reporter.progress, reporter.stop_requested.is_set)
    trainer = make_trainer([log, watch])
    checkpoint = last_checkpoint(checkpoints)
    if checkpoint:
        print(f"going on from {checkpoint}", flush=True)
    with full_disk_named(checkpoints):
        trainer.train(resume_from_checkpoint=checkpoint)
        if not watch.stopped:
            save_whole(trainer, outputs.model)
            write_curves(trainer.state.log_history, outputs.curves)
    if watch.stopped:
        reporter.raise_if_stopped()
    _remove_with_siblings(checkpoints)


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turns the several ways in which torch and safetensors say that the disk is full into one line.

    Raises:
        UserError: something could not be written in or near `folder`.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # safetensors has an exception of its own, and torch's writer raises RuntimeError with a line of C++.
        full |= type(error).__name__ == "SafetensorError" and "o space left" in text
        full |= "inline_container" in text or "PytorchStreamWriter" in text
        if not full:
            raise
        reason = text.splitlines()[0][:80]
        raise UserError(
            f"{folder}: a checkpoint or model could not be written ({reason}): free some space and run again; "
            "the last whole checkpoint is kept"
        ) from error


def _remove_with_siblings(checkpoints: Path) -> None:
    """A stage that ended well needs neither its checkpoints nor those of its earlier settings."""
    stage = checkpoints.name.rpartition("-")[0]
    for folder in checkpoints.parent.glob(f"{stage}-*"):
        if folder.name.rpartition("-")[0] == stage:
            shutil.rmtree(folder, ignore_errors=True)


def save_whole(trainer: VisionLanguageTrainer, folder: Path) -> None:
    """The trained model in `folder`, written beside and renamed."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    save_model(model, trainer.processor, beside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)
