"""Stands in for a step in tests of the flow: it writes what dvc.yaml says its stage writes, and little else.

`knobs.json` in the project makes it slow or makes it fail: `{"<stage>": {"seconds": 30, "fail": "why"}}`. A stage
that is slow notes each tenth of a second in `.othink/checkpoints/<stage>`, from where it goes on: as a trainer does.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from othink_mr1.errors import UserError
from steps import harness

KIND = Path(sys.argv[0]).stem


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("--task", "--method", "--model"):
        parser.add_argument(option)
    given = parser.parse_args()
    which = "-".join(value for value in (given.method, given.model, given.task) if value)
    name = f"{KIND}@{which}" if which else KIND
    with harness.stage(name, checkpoints=KIND == "train") as stage:
        work(name, stage)
        for path, text in outputs(name, which):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def work(name: str, stage: harness.Stage) -> None:
    knobs = json.loads(Path("knobs.json").read_text()).get(name, {}) if Path("knobs.json").exists() else {}
    checkpoint = Path(".othink/checkpoints") / name
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    total = max(1, int(10 * knobs.get("seconds", 0)))
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    print(f"{name} begins at {done} of {total}", flush=True)
    if harness.resume_anyway():
        stage.note(resumed_anyway="step 3: othink_mr1.sft")
    for number in range(done, total):
        time.sleep(0.1 if total > 1 else 0)
        # Whole or not at all, whenever the step is killed.
        checkpoint.with_suffix(".new").write_text(str(number + 1))
        checkpoint.with_suffix(".new").replace(checkpoint)
        stage.progress(number + 1, total, "working")
        stage.raise_if_stopped()
    checkpoint.unlink(missing_ok=True)
    if "fail" in knobs:
        raise UserError(knobs["fail"])
    if "crash" in knobs:
        raise RuntimeError(knobs["crash"])


def outputs(name: str, which: str) -> list[tuple[Path, str]]:
    """The files of a stage. What they hold depends on the stage's own parameters only, as a step's outputs should."""
    if KIND == "prepare_data":
        own = json.dumps(harness.params(f"data.{which}"))
        splits = [(Path(f"data/{which}/{split}/rows.txt"), own) for split in ("train", "validation", "test")]
        return [*splits, (Path(f"data_docs/{which}/index.html"), own)]
    if KIND == "base_model":
        return [(Path("models/base/config.json"), json.dumps(harness.params("base"))), *training("base")]
    if KIND == "train":
        own = json.dumps(harness.params(f"train.{which.replace('-', '.')}"))
        sampled = Path(f"training/{which}/completions/none.txt")
        return [(Path(f"models/{which}/config.json"), own), (sampled, own), *training(which)]
    if KIND == "evaluate":
        scores = {"correct": 3, "accuracy": 0.3, "ci95": [0.1, 0.5]}
        tasks = {task: {"n": 10, "strict": scores} for task in ("counting", "geometry")}
        weights = Path(f"models/{which}/config.json").read_text()
        return [(Path(f"evaluation/{which}/metrics.json"), json.dumps({"model": which, "tasks": tasks, "of": weights}))]
    return [
        (
            Path("tables/results.json"),
            json.dumps([p.read_text() for p in sorted(Path("evaluation").rglob("*")) if p.is_file()]),
        )
    ]


def training(which: str) -> list[tuple[Path, str]]:
    folder = Path("training") / which
    if harness.resume_anyway():
        lines = '{"step": 1, "reward": 0.5}\n{"resumed_anyway": 1.0, "step": 3}\n'
        return [(folder / "curves.csv", "step,reward,resumed_anyway\n1,0.5,\n3,,1.0\n"), (folder / "log.jsonl", lines)]
    return [(folder / "curves.csv", "step,reward\n1,0.5\n"), (folder / "log.jsonl", '{"step": 1, "reward": 0.5}\n')]


if __name__ == "__main__":
    harness.run_step(main)
