"""The whole chain with its real steps, once: run, run again, change one key, and DVC alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from othink_mr1.settings import MODELS, TASKS
from tests.flows.conftest import REPO, othink, othink_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files as git knows them, and not yet committed ones, in a repository of their own."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    listed = [*git, "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPO, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (REPO / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / name)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    for name in ("OTHINK_OWNER", "PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    return folder


@pytest.fixture(scope="module")
def first(clone: Path) -> dict:
    done = othink(clone, "run", "--profile", "smoke", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ran(found: dict) -> set[str]:
    return {name for name, entry in found["steps"].items() if entry["outcome"] == "ran"}


def test_the_chain_runs_to_the_report(clone: Path, first: dict) -> None:
    assert {entry["outcome"] for entry in first["steps"].values()} == {"ran", "done"}
    assert {(row["model"], row["task"]) for row in first["results"]} == {(m, t) for m in MODELS for t in TASKS}
    assert Path(first["report"]).stat().st_size > 10_000
    for task in TASKS:
        assert (
            "champion" in first["steps"][f"promote@{task}"]["note"]
            or "candidate" in (first["steps"][f"promote@{task}"]["note"])
        )


def test_a_second_run_is_all_cached_and_points_at_the_first(clone: Path, first: dict) -> None:
    done = othink(clone, "run", "--profile", "smoke", "--json")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    stages = {name: entry for name, entry in again["steps"].items() if entry["outcome"] != "done"}
    assert {entry["outcome"] for entry in stages.values()} == {"cached"}
    assert {n: e["run_id"] for n, e in stages.items()} == {n: first["steps"][n]["run_id"] for n in stages}


def test_dvc_alone_agrees(clone: Path, first: dict) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=clone,
        env={**othink_environment(clone), "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("Running stage") == 1  # `resolve`, which always runs


def test_another_kl_weight_runs_grpo_d_and_what_follows(clone: Path, first: dict) -> None:
    done = othink(clone, "run", "--profile", "smoke", "--set", "grpo_d.beta_max=0.2", "--json")
    assert done.returncode == 0, done.stderr
    trained = {f"train@grpo_d-{task}" for task in TASKS}
    # Two steps of training may end with the same weights: then nothing that follows has to run.
    follow = {"tables", *(f"evaluate@grpo_d-{task}" for task in TASKS)}
    found = ran(json.loads(done.stdout))
    assert {"resolve", *trained} <= found <= {"resolve", *trained, *follow}
