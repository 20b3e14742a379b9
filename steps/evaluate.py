"""Greedy answers of one model to both test sets, scored under both protocols.

    python -m steps.evaluate --model grpo_d-counting

Reads models/<model> and data/<task>/test; writes evaluation/<model>/predictions.parquet and metrics.json.
The base also answers a direct prompt, because it often scores higher so (R1-V#72). Finished batches are kept in
.othink/checkpoints/, so a run that was killed goes on where it was and ends with the same files.
"""

import argparse
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1.answers import r1v
from othink_mr1.names import MODELS, TASKS
from steps import harness

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from othink_mr1.models.processor import Processor


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, choices=MODELS)
    name = parser.parse_args(argv).model
    settings, threads = harness.params("evaluation"), harness.params("threads")
    with harness.stage(f"evaluate@{name}") as stage:
        evaluate(name, settings, threads, stage)


def evaluate(name: str, settings: dict[str, Any], threads: int, stage: harness.Stage) -> None:
    """Evaluate the model `name` on both tasks and write its folder.

    Args:
        settings: batch_size, max_new_tokens by task, direct_answer.
    """
    from othink_mr1.data.reading import read_split
    from othink_mr1.evaluation import predictions
    from othink_mr1.evaluation.generate import complete, prompts_of
    from othink_mr1.evaluation.journal import Journal
    from othink_mr1.evaluation.score import prediction_rows, summarise
    from othink_mr1.training.fingerprint import home, siblings

    r1v.require()
    samples = {task: read_split(Path("data") / task, "test") for task in TASKS}
    kinds = ("reasoning", "direct") if name == "base" and settings["direct_answer"] else ("reasoning",)
    total = sum(len(split) for split in samples.values()) * len(kinds)
    stage.progress(0, total, "loading the model")
    model, processor = _load(Path("models") / name, threads)
    inputs = [Path("models") / name, *(Path("data") / task / "test" for task in TASKS)]
    kept = home(f"evaluate@{name}", settings, inputs).folder
    journal = Journal(kept / "completions.jsonl")
    method, trained_on = predictions.split_model_name(name)

    rows: list[dict[str, Any]] = []
    tasks: dict[str, dict[str, Any]] = {}
    for task in TASKS:
        columns = {column: samples[task].column(column) for column in ("sample_id", "solution")}
        for kind in kinds:
            prompts = prompts_of(samples[task], task, kind)
            what = f"answering {task}" if kind == "reasoning" else f"answering {task} directly"
            found = complete(
                model,
                processor,
                samples[task],
                prompts,
                settings["max_new_tokens"][task],
                settings["batch_size"],
                partial(_tell, stage, what, len(rows), total),
                journal,
                f"{task}/{kind}",
            )
            new = prediction_rows(columns, task, kind, prompts, found, method, trained_on)
            rows += new
            if kind == "reasoning":
                tasks[task] = summarise(new)
            else:
                tasks[task][kind] = summarise(new)
    predictions.write(Path("evaluation") / name, rows, {"model": name, "tasks": tasks})
    for folder in (kept, *siblings(kept)):
        shutil.rmtree(folder, ignore_errors=True)


def _tell(stage: harness.Stage, what: str, before: int, total: int, done: int) -> None:
    stage.progress(before + done, total, what)


def _load(folder: Path, threads: int) -> "tuple[PreTrainedModel, Processor]":
    import torch

    from othink_mr1.models.loading import load_model, load_processor

    torch.set_num_threads(threads)
    # As R1-V: bfloat16 on a GPU. On a CPU float32 is faster, and completions do not depend on the batches.
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    return load_model(folder, dtype), load_processor(folder)


if __name__ == "__main__":
    harness.run_step(main)
