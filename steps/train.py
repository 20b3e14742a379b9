"""Trains one method on one task, from the base model or from its own last checkpoint.

Out: models/<method>-<task>, and in training/<method>-<task> curves.csv, log.jsonl (with times) and the completions of
every logged step (SFT samples none).
"""

import argparse
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from othink_mr1 import machine, processes, stages
from othink_mr1.errors import UserError
from othink_mr1.names import METHODS, TASKS
from othink_mr1.training import launch
from steps import harness


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one model.

    Raises:
        UserError: a setting, the data or the base model is wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m steps.train", description=__doc__)
    parser.add_argument("--method", required=True, choices=METHODS)
    parser.add_argument("--task", required=True, choices=TASKS)
    chosen = parser.parse_args(arguments)
    name = f"{chosen.method}-{chosen.task}"
    settings = harness.params(f"train.{chosen.method}.{chosen.task}")
    seed, threads = harness.params("seed"), harness.params("threads")
    shape = harness.params("training.launch")
    if shape["processes"] * shape["machines"] > 1 and not launch.is_launched():
        _launch(f"train@{name}", shape, ["--method", chosen.method, "--task", chosen.task])
        return
    first = os.environ.get("RANK", "0") == "0"
    with harness.stage(f"train@{name}", checkpoints=True) if first else harness.follower(f"train@{name}") as stage:
        stage.progress(0, 1, "loading")
        _train(chosen.method, chosen.task, settings, seed, threads, shape, stage)


def _launch(stage: str, shape: dict[str, Any], arguments: Sequence[str]) -> None:
    """Start the training's processes and say how they ended."""
    import torch

    def holder() -> processes.Process | None:
        found = stages.holder(stage)
        return found[0] if found is not None and found[0].alive else None

    command = launch.command(shape, torch.cuda.is_available(), "steps.train", arguments)
    kills, began = machine.oom_kills(), time.time()
    told, number = launch.run(command, {"OTHINK_OWNER": str(harness.owner())}, holder)
    if told is None:
        return
    status = stages.read_status(stage) or {}
    if status.get("started_at", 0) < began:  # an earlier run's: this one ended before it could write any
        status = {}
    if machine.oom_kills() != kills:
        told = "; ".join([f"{told}; {stages.OUT_OF_MEMORY}", *status.get("savings", ())])
    if number is not None or (status.get("state") == "interrupted" and "ended_at" in status):
        raise harness.Interrupted(number or signal.SIGTERM)
    if status.get("state") == "failed" and status.get("users_mistake"):
        raise UserError(status["message"])
    stages.write_status(stage, {**status, "stage": stage, "state": "failed", "message": told, "ended_at": time.time()})
    raise UserError(told)


def _train(
    method: str, task: str, settings: dict, seed: int, threads: int, shape: dict[str, Any], stage: harness.Stage
) -> None:
    # Imported here: `--help` and a wrong argument should not wait for torch.
    import torch
    from accelerate import PartialState
    from transformers import TrainerCallback

    from othink_mr1.data.completions import CompletionsFolder
    from othink_mr1.data.reading import read_split
    from othink_mr1.models.loading import load_model, load_processor
    from othink_mr1.training import together
    from othink_mr1.training.estimate import require_memory, savings
    from othink_mr1.training.fingerprint import home
    from othink_mr1.training.needs import job_of, memory_of_device
    from othink_mr1.training.run import Outputs, machine_arguments, prepare_torch, run
    from othink_mr1.training.trainer import VisionLanguageTrainer
    from othink_mr1.training.validation import greedy_accuracy

    if method == "sft":
        from othink_mr1.sft import SFTConfig as Config
        from othink_mr1.sft import SFTTrainer as Trainer
    else:
        from othink_mr1.grpo.config import GRPODConfig as Config
        from othink_mr1.grpo.trainer import GRPODTrainer as Trainer  # type: ignore[assignment]

    prepare_torch(threads)
    data, base = Path("data") / task, Path("models/base")
    train, validation = read_split(data, "train"), read_split(data, "validation")
    processor = load_processor(base)
    inputs = [data / "train", data / "validation", base]
    first = PartialState(cpu=not torch.cuda.is_available()).is_main_process
    precision = {} if shape["mixed_precision"] is None else {"bf16": shape["mixed_precision"] == "bf16"}
    settings = {**settings, **precision, "strategy": shape["strategy"], "deepspeed": shape["deepspeed"]}
    job = job_of(base, processor, train, settings, threads)
    require_memory(job, *memory_of_device())
    stage.note(savings=savings(job))
    origin = {**settings, "seed": seed}, inputs, harness.resume_anyway()
    mine = together.first(home(f"train@{method}-{task}", *origin) if first else None)
    config = Config(
        **machine_arguments(mine.folder, seed),
        eval_strategy="steps" if settings.get("eval_steps") else "no",
        **settings,
    )

    outputs = Outputs(f"{method}-{task}")
    sampled = CompletionsFolder(outputs.completions, mine.folder / "completions")
    options = {} if method == "sft" else {"record": sampled}

    def make_trainer(callbacks: list[TrainerCallback]) -> VisionLanguageTrainer:
        callbacks = [*callbacks, sampled] if first else callbacks
        return Trainer(load_model(base), config, processor, train, validation, callbacks, greedy_accuracy, **options)

    run(make_trainer, mine, outputs, stage, savings(job))


if __name__ == "__main__":
    harness.run_step(main)
