"""Greedy answers of one model to both test sets, scored under both protocols.

    python -m steps.evaluate --model grpo_d-counting

Reads models/<model> and data/<task>/test.parquet; writes evaluation/<model>/predictions.parquet and metrics.json.
The base also answers a direct prompt, because it often scores higher so (R1-V#72).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1 import answers_r1v
from othink_mr1.names import MODELS, TASKS
from steps import harness

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from othink_mr1.data.reading import Samples
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
    from othink_mr1.evaluation.score import prediction_rows, summarise

    answers_r1v.require()
    samples = {task: read_split(Path("data") / task, "test") for task in TASKS}
    kinds = ("reasoning", "direct") if name == "base" and settings["direct_answer"] else ("reasoning",)
    total = sum(len(split) for split in samples.values()) * len(kinds)
    stage.progress(0, total, "loading the model")
    model, processor = _load(Path("models") / name, threads)
    method, trained_on = predictions.split_model_name(name)

    rows: list[dict[str, Any]] = []
    tasks: dict[str, dict[str, Any]] = {}
    for task in TASKS:
        columns = {column: samples[task].column(column) for column in ("sample_id", "solution")}
        for kind in kinds:
            prompts, found = _ask(model, processor, samples[task], task, kind, settings, stage, len(rows), total)
            new = prediction_rows(columns, task, kind, prompts, found, method, trained_on)
            rows += new
            if kind == "reasoning":
                tasks[task] = summarise(new)
            else:
                tasks[task][kind] = summarise(new)
    predictions.write(Path("evaluation") / name, rows, {"model": name, "tasks": tasks})


def _load(folder: Path, threads: int) -> "tuple[PreTrainedModel, Processor]":
    import torch

    from othink_mr1.models.loading import load_model, load_processor

    torch.set_num_threads(threads)
    # As R1-V: bfloat16 on a GPU. On a CPU float32 is faster, and completions do not depend on the batches.
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    return load_model(folder, dtype), load_processor(folder)


def _ask(
    model: "PreTrainedModel",
    processor: "Processor",
    samples: "Samples",
    task: str,
    kind: str,
    settings: dict[str, Any],
    stage: harness.Stage,
    before: int,
    total: int,
) -> tuple[list[str], list[Any]]:
    """The prompts of one kind and the completions of them; `before` of `total` answers are there already."""
    from othink_mr1.evaluation.generate import complete, prompts_of

    prompts = prompts_of(samples, task, kind)
    what = f"answering {task}" if kind == "reasoning" else f"answering {task} directly"

    def progress(done: int) -> None:
        stage.progress(before + done, total, what)

    longest = settings["max_new_tokens"][task]
    return prompts, complete(model, processor, samples, prompts, longest, settings["batch_size"], progress)


if __name__ == "__main__":
    harness.run_step(main)
