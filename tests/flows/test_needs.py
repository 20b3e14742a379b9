"""`othink run --plan` says what each training needs, before anything is fetched, and without torch."""

import json
import subprocess
import sys
from pathlib import Path

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


def test_estimates_need_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", NEEDED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
