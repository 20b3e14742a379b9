"""The whole chain with its real steps: run, ask a model, run again, change one key, DVC alone, own data."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from othink_mr1.data.reading import read_split
from othink_mr1.names import MODELS, TASKS
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


def accuracy(found: dict, model: str, task: str) -> float:
    return next(row["accuracy"] for row in found["results"] if (row["model"], row["task"]) == (model, task))


def test_the_first_model_is_champion_only_where_it_is_better_than_its_base(clone: Path, first: dict) -> None:
    versions = json.loads(othink(clone, "models", "--json").stdout)
    for task in TASKS:
        better = accuracy(first, f"grpo_d-{task}", task) > accuracy(first, "base", task)
        [version] = [entry for entry in versions if entry["task"] == task]
        assert version["aliases"] == (["champion"] if better else ["candidate"])
        told = "is champion, the first" if better else "stays a candidate: "
        assert told in first["steps"][f"promote@{task}"]["note"]
        assert version["tags"]["gates"] == ("passed" if better else "failed")


def test_a_registered_model_answers_a_question_about_a_picture(clone: Path, first: dict, tmp_path: Path) -> None:
    sample = read_split(clone / "data" / "counting", "test")[0]
    sample["image"].save(tmp_path / "picture.png")
    asked = ("--task", "counting", "--image", str(tmp_path / "picture.png"), "--question", sample["problem"])
    done = othink(clone, "predict", *asked, "--model", "1", "--json")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert set(reply) == {"model", "thinking", "answer", "completion"}
    assert reply["model"] == "othink-mr1-counting version 1"
    assert reply["completion"]


def test_prefect_has_the_report_in_short(clone: Path, first: dict) -> None:
    database = sqlite3.connect(clone / ".othink" / "prefect" / "prefect.db")
    [text] = database.execute("SELECT data FROM artifact WHERE type = 'markdown' AND key = 'summary'").fetchone()
    database.close()
    assert "### Same task: accuracy" in text
    assert "**counting**: grpo_d-counting " in text


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
    # Two steps without a reward leave the weights as they are, whatever the KL weight is; what decays does not.
    sets = ("--set", "grpo_d.beta_max=0.2", "--set", "grpo_d.weight_decay=0.1")
    done = othink(clone, "run", "--profile", "smoke", *sets, "--json")
    assert done.returncode == 0, done.stderr
    changed = {f"{kind}@grpo_d-{task}" for kind in ("train", "evaluate") for task in TASKS}
    found = ran(json.loads(done.stdout))
    # The tables need not run where the new models give the same answers as the old ones.
    assert {"resolve", *changed} <= found <= {"resolve", *changed, "tables"}


ANSWERS = (r"$\frac{1}{2}$", r"$60^\circ$", r"$2\sqrt{3}$ cm", r"\boxed{4.5}", "12", r"$\angle ABC = 35^{\circ}$")
MODES = ("RGB", "RGBA", "P", "L")


def geometry_rows(folder: Path, name: str, count: int) -> Path:
    """A jsonl file of R1-V's keys, with pictures of every mode and several sizes and answers in LaTeX."""
    (folder / name).mkdir(parents=True)
    rows = []
    for number in range(count):
        mode, size = MODES[number % len(MODES)], (40 + 24 * (number % 5), 32 + 40 * (number % 3))
        colour: Any = {"RGB": (number, 90, 10), "RGBA": (number, 9, 99, 128), "P": number, "L": number}[mode]
        picture = Image.new(mode, size, colour)
        if mode == "P":
            picture.putpalette([value for index in range(256) for value in (index, 255 - index, len(name))])
        picture.save(folder / name / f"{number}.png")
        answer = ANSWERS[number % len(ANSWERS)]
        question = f"In the figure of the {name} exercise {number}, what is \\(x\\)?"
        rows.append({"image_path": f"{name}/{number}.png", "question": question, "ground_truth": answer})
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_own_data_goes_through_the_whole_chain(clone: Path, first: dict, tmp_path: Path) -> None:
    train, test = geometry_rows(tmp_path, "train", 24), geometry_rows(tmp_path, "test", 12)
    sets = (
        f"data.geometry.train={{source: jsonl, path: {train}}}",
        "data.geometry.validation={fraction: 0.25}",
        f"data.geometry.test={{source: jsonl, path: {test}}}",
    )
    done = othink(clone, "run", "--profile", "smoke", *(part for text in sets for part in ("--set", text)), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"prepare_data@geometry", "train@grpo_d-geometry", "evaluate@base", "tables"} <= ran(found)
    assert found["steps"]["train@grpo_d-counting"]["outcome"] in ("cached", "restored")
    sizes = {name: len(read_split(clone / "data" / "geometry", name)) for name in ("train", "validation", "test")}
    assert sizes == {"train": 18, "validation": 6, "test": 12}
    assert {row["n"] for row in found["results"] if row["task"] == "geometry"} == {12}
    answers = read_split(clone / "data" / "geometry", "test").column("solution")
    assert r"<answer> $\frac{1}{2}$ </answer>" in answers
