"""`othink run --plan` says what each training needs, before anything is fetched, and without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows import needs
from tests.flows.conftest import othink

NEEDED = """
import sys
import flows.needs
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


def test_a_plan_has_memory_and_time_of_each_training(project: Path) -> None:
    done = othink(project, "run", "--plan", "--profile", "paper-2b", "--json")
    assert done.returncode == 0, done.stderr
    steps = {step["name"]: step["needs"] for step in json.loads(done.stdout)["steps"]}
    assert steps["train@grpo_d-counting"]["bytes"] > steps["train@sft-counting"]["bytes"] > 40e9
    assert steps["train@grpo_d-counting"]["steps"] == 12
    assert steps["train@grpo_d-geometry"]["steps"] is None  # nobody knows how many rows the dataset has
    assert steps["evaluate@base"] is None
    text = othink(project, "run", "--plan", "--profile", "smoke").stdout
    assert text.count("needs about ") == 6


def test_a_plan_for_several_gpus_counts_what_each_has(project: Path) -> None:
    whole, each = (needs_of(project, profile) for profile in ("paper-7b", "paper-7b-8gpu"))
    assert each["bytes"] < 0.4 * whole["bytes"]  # activations and one gathered block are not shared out
    assert whole["steps"] == each["steps"] == 15  # as many prompts an update
    assert "GB of memory in each of 8 processes (fsdp)" in each["text"]
    assert "what the processes send to each other left out" in each["text"]
    adapter = needs_of(project, "paper-7b", "--set", "grpo.lora_r=16")
    assert adapter["bytes"] < whole["bytes"] / 3


def needs_of(project: Path, profile: str, *more: str) -> dict[str, Any]:
    done = othink(project, "run", "--plan", "--profile", profile, "--json", *more)
    steps = json.loads(done.stdout)["steps"]
    return next(step["needs"] for step in steps if step["name"] == "train@grpo_d-counting")


def test_a_run_with_a_training_that_cannot_fit_does_not_begin(project: Path) -> None:
    drawn = "{source: synthetic, rows: 4}"
    sources = [text for task in ("counting", "geometry") for text in ("--set", f"data.{task}.test={drawn}")]
    size = ("--set", "grpo.num_generations=2", "--set", "training.launch.processes=1000")
    done = othink(project, "run", "--profile", "paper-7b", *sources, *size)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("othink: train@sft-counting needs about "), line
    assert "in each of 1000 processes (ddp), which does not fit into " in line
    assert "; training.launch.strategy=fsdp saves about " in line
    assert not (project / "models").exists()
    assert not (project / "data" / "counting").exists()


def test_rows_are_those_of_the_settings_whatever_was_prepared_before(project: Path) -> None:
    folder = project / "data" / "counting"
    folder.mkdir(parents=True, exist_ok=True)
    source = {"source": "parquet"}
    told = {"splits": {"train": {"read": 7, "source": source}}}
    (folder / "provenance.json").write_text(json.dumps(told))
    asked = {"train": {"source": "synthetic", "rows": 2000}}
    assert needs._rows(project, asked, "counting") == 2000
    assert needs._rows(project, {**asked, "train_samples": 100}, "counting") == 100
    assert needs._rows(project, {"train": source}, "counting") == 7
    assert needs._rows(project, {"train": source, "train_samples": 100}, "counting") == 7
    assert needs._rows(project, {"train": {"source": "jsonl"}}, "counting") is None
    assert needs._rows(project, {"train": source}, "geometry") is None


def test_estimates_need_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", NEEDED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
