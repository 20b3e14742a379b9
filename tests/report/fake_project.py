"""A project folder as a finished run leaves it, with invented completions: real files, no training."""

import csv
import random
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

from othink_mr1.data.schema import QUARANTINE_SCHEMA, SCHEMA, ParquetSink
from othink_mr1.data.shards import shard_name
from othink_mr1.data.synthetic import counting, geometry
from othink_mr1.evaluation import predictions
from othink_mr1.evaluation.score import prediction_rows, summarise
from othink_mr1.grpo.rollout import Completion
from othink_mr1.names import MODELS, TASKS

SCENES = {"counting": counting.scene, "geometry": geometry.scene}
# how often each model is right: same task, other task
SKILL = {"base": (0.30, 0.22), "sft": (0.62, 0.18), "grpo": (0.60, 0.27), "grpo_d": (0.68, 0.29)}

GATES = {
    "counting": {
        "candidate": "grpo_d-counting",
        "version": 2,
        "promoted": True,
        "reason": "all gates passed",
        "gates": [
            {"name": "format_accuracy", "passed": True, "detail": "96.2% of completions are well formed, 80% needed"},
            {"name": "beats_base", "passed": True, "detail": "+38.0 points over the base, p < 0.001"},
            {"name": "not_worse_than_champion", "passed": True, "detail": "no champion yet"},
        ],
    },
    "geometry": {
        "candidate": "grpo_d-geometry",
        "version": 2,
        "promoted": False,
        "reason": "not_worse_than_champion failed",
        "gates": [
            {"name": "beats_base", "passed": True, "detail": "+20.5 points over the base, p < 0.001"},
            {"name": "not_worse_than_champion", "passed": False, "detail": "-6.5 points against version 1, p = 0.004"},
        ],
    },
}


def make(root: Path, items: int = 60, image_size: int = 64, extra_completion: str = "") -> Path:
    """Fill `root`; `extra_completion` is put into every model's completion of the first item of each task."""
    from steps.tables import write_tables

    test = {task: _make_data(root, task, items, image_size) for task in TASKS}
    for model in MODELS:
        _make_evaluation(root, model, test, extra_completion)
        _make_curves(root, model)
    work = root / ".othink"
    work.mkdir(exist_ok=True)
    parameters = {
        "seed": 0,
        "threads": 1,
        "base": {"source": "tiny", "max_steps": 200, "learning_rate": 1e-3},
        "data": {task: {"test": {"source": "synthetic", "size": items}} for task in TASKS},
        "train": {
            "sft": {"counting": {"learning_rate": 1e-4}},
            "grpo_d": {"counting": {"beta_min": 0.04, "beta_max": 0.1, "learning_rate": 3e-5}},
        },
        "evaluation": {"batch_size": 64, "max_new_tokens": {"counting": 48, "geometry": 48}, "direct_answer": True},
        "tables": {"confidence": 0.95},
    }
    (work / "params.yaml").write_text(yaml.safe_dump(parameters))
    (work / "selection.yaml").write_text(yaml.safe_dump({"profile": "demo", "set": ["seed=0"]}))

    write_tables({"confidence": 0.95}, True, _Silent(), root)
    return root


class _Silent:
    def progress(self, done: int, total: int, what: str) -> None:
        pass


def _write(path: Path, rows: list[dict[str, Any]], schema: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with ParquetSink(path, schema) as sink:
        for row in rows:
            sink.write(row)


def _make_data(root: Path, task: str, items: int, image_size: int) -> list[dict[str, Any]]:
    folder = root / "data" / task
    rows = {}
    for split, size in (("train", items), ("validation", items // 4), ("test", items)):
        rows[split] = [_row(task, split, index, image_size) for index in range(size)]
        _write(folder / split / shard_name(0, 1), rows[split], SCHEMA)
    bad = [
        {"task": task, "split": "train", "source": f"{task}.jsonl:{line}", "reason": reason, "detail": "",
         "image": {"bytes": None, "path": None}, "problem": "How many?", "answer": "many"}
        for line, reason in ((3, "answer"), (9, "answer"), (12, "leak"))
    ]  # fmt: skip
    _write(folder / "quarantine.parquet", bad, QUARANTINE_SCHEMA)
    return rows["test"]


def _row(task: str, split: str, index: int, image_size: int) -> dict[str, Any]:
    scene = SCENES[task](0, index, split, image_size)
    encoded = BytesIO()
    scene["image"].save(encoded, "PNG")
    return {
        "sample_id": f"{task}-{split}-{index:05d}",
        "task": task,
        "split": split,
        "source": "synthetic",
        "image": {"bytes": encoded.getvalue(), "path": None},
        **{name: scene[name] for name in ("problem", "solution", "answer", "thinking")},
    }


def _make_evaluation(root: Path, model: str, test: dict[str, list[dict[str, Any]]], extra: str) -> None:
    method, trained_on = predictions.split_model_name(model)
    rows: list[dict[str, Any]] = []
    tasks: dict[str, Any] = {}
    for task in TASKS:
        for kind in ("reasoning", "direct") if model == "base" else ("reasoning",):
            skill = SKILL[method][0 if trained_on in ("", task) else 1] + (0.12 if kind == "direct" else 0)
            found = [_answer(sample, model, kind, skill) for sample in test[task]]
            if extra:
                found[0] = Completion(extra, 9, False)
            samples = {name: [sample[name] for sample in test[task]] for name in ("sample_id", "solution")}
            new = prediction_rows(samples, task, kind, [s["problem"] for s in test[task]], found, method, trained_on)
            rows += new
            if kind == "reasoning":
                tasks[task] = summarise(new)
            else:
                tasks[task][kind] = summarise(new)
    predictions.write(root / "evaluation" / model, rows, {"model": model, "tasks": tasks})


def _answer(sample: dict[str, Any], model: str, kind: str, skill: float) -> Completion:
    # the item's difficulty is shared by all models, so that they are right on much the same items
    hard = random.Random(sample["sample_id"]).random()
    own = random.Random(f"{sample['sample_id']} {model} {kind}").random()
    right = 0.7 * hard + 0.3 * own < skill * 0.85 + 0.05
    digits = "".join(c for c in sample["answer"] if c.isdigit())
    answer = sample["answer"] if right else sample["answer"].replace(digits, str(int(digits) - 1 or 2), 1)
    if kind == "direct":
        return Completion(answer, 2, False)
    if own > 0.97:
        return Completion(f"<think> {sample['thinking']} {sample['thinking']}", 48, True)
    return Completion(
        f"<think> {sample['thinking'] if right else answer} </think> <answer> {answer} </answer>", 12, False
    )


def _make_curves(root: Path, model: str) -> None:
    method, _ = predictions.split_model_name(model)
    folder = root / "training" / model
    folder.mkdir(parents=True, exist_ok=True)
    noise = random.Random(model)
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if method in ("base", "sft"):
            writer.writerow(["step", "loss", "eval_accuracy"])
            for step in range(5, 101, 5):
                accuracy = 0.3 + 0.3 * step / 100 if step % 25 == 0 else ""
                writer.writerow([step, 1.2 * 0.97**step + noise.random() * 0.05, accuracy])
            return
        writer.writerow(["step", "reward", "rewards/accuracy_reward/mean", "kl", "beta", "loss", "eval_accuracy"])
        for step in range(5, 61, 5):
            beta = (
                0.04 if method == "grpo" else 0.07 - 0.03 * step / 18 if step <= 18 else 0.04 + 0.06 * (step - 18) / 42
            )
            accuracy = 0.3 + 0.35 * (1 - 0.95**step) + noise.random() * 0.06
            validation = accuracy - 0.02 if step % 20 == 0 else ""
            writer.writerow([step, accuracy + 0.95, accuracy, 0.002 * step * noise.random(), beta, 0.01, validation])
