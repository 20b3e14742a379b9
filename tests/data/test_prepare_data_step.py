"""`python -m steps.prepare_data`, from its parameters to its files, as DVC runs it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from makers import digests, row, write_jsonl

from othink_mr1.data.reading import read_split

ROOT = Path(__file__).parents[2]
SYNTHETIC = {"source": "synthetic", "rows": 6, "image_size": 64}


def step(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "steps.prepare_data", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def resolved(project: Path, paths: dict[str, Path] | None = None, **splits: Any) -> None:
    """What `resolve` would have written."""
    data = {"train": SYNTHETIC, "validation": SYNTHETIC, "test": SYNTHETIC, "train_samples": None}
    settings = {**data, "checks": {"max_quarantined": 0.05}, **splits}
    values = {
        "seed": 0,
        "data": {"counting": settings, "geometry": settings},
        "local": {"paths": {key: str(path) for key, path in (paths or {}).items()}},
    }
    (project / ".othink").mkdir(exist_ok=True)
    (project / ".othink" / "params.yaml").write_text(yaml.safe_dump(values))


@pytest.mark.slow
def test_a_run_a_second_run_and_one_that_fails_its_checks(tmp_path: Path) -> None:
    resolved(tmp_path)
    first = step(tmp_path, "--task", "counting")
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    *counts, no_profile = first.stdout.splitlines()
    assert counts == [f"counting {split}: 6 rows" for split in ("train", "validation", "test")]
    assert no_profile.startswith("counting: drift is not looked for, as no profile is accepted yet of train (synthetic")
    data = tmp_path / "data" / "counting"
    assert [len(read_split(data, split)) for split in ("train", "validation", "test")] == [6, 6, 6]
    assert (tmp_path / "data_docs" / "counting" / "index.html").is_file()
    status = json.loads((tmp_path / ".othink" / "stages" / "prepare_data@counting.json").read_text())
    assert status["state"] == "done"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".othink", "data", "data_docs"]
    good = digests(data)

    assert step(tmp_path, "--task", "counting").returncode == 0
    assert digests(data) == good

    # One row of five is broken: more than params.yaml allows. The good version stays.
    broken = [row(number) for number in range(4)] + [row(9, ground_truth="many")]
    path = write_jsonl(tmp_path, broken)
    resolved(tmp_path, {"data.counting.train": path}, train={"source": "jsonl", "sha256": "x", "licence": "MIT"})
    failed = step(tmp_path, "--task", "counting")
    assert failed.returncode == 1
    assert failed.stderr == (
        "data.counting: train split: expect_column_max_to_be_between(share_quarantined) failed: observed 0.2, "
        "expected at most 0.05; such as rows.jsonl:5: answer_not_a_count ('many'; a whole number such as 3); "
        "see .othink/prepare/counting/data_docs/index.html\n"
    )
    assert (tmp_path / ".othink/prepare/counting/data_docs/index.html").is_file()
    assert digests(data) == good
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["counting"]


DVC_YAML = """
stages:
  prepare_data:
    matrix: {task: [counting]}
    cmd: python -m steps.prepare_data --task ${item.task}
    params:
      - .othink/params.yaml:
          - data.${item.task}
    deps: [code]
    outs:
      - data/${item.task}
      - data_docs/${item.task}
  after:
    cmd: echo ran >> runs && cp data/counting/train/00000-of-00001.parquet trained
    deps: [data/counting/train]
    outs: [trained]
"""


def dvc(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def make_dvc_project(project: Path) -> None:
    dvc(project, "init", "--no-scm", "--quiet")
    (project / "dvc.yaml").write_text(DVC_YAML)
    (project / "code").write_text("first")


@pytest.mark.slow
def test_where_nothing_changed_nothing_is_done_and_the_same_rows_fetched_again_start_no_training(
    tmp_path: Path,
) -> None:
    def reproduce() -> str:
        done = dvc(tmp_path, "repro")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def runs() -> int:
        return len((tmp_path / "runs").read_text().splitlines())

    make_dvc_project(tmp_path)
    given = [row(number) for number in range(300)]  # enough for several processes
    settings = {"source": "jsonl", "sha256": "x", "licence": "MIT"}
    (tmp_path / "first").mkdir()
    resolved(tmp_path, {"data.counting.train": write_jsonl(tmp_path / "first", given)}, train=settings)
    assert "Running stage 'prepare_data@counting'" in reproduce()
    made = digests(tmp_path / "data")

    nothing = reproduce()
    assert "Running stage" not in nothing
    assert "Data and pipelines are up to date." in nothing

    # Elsewhere, at another time, by other code: the step runs, and what comes out is the same.
    (tmp_path / "second").mkdir()
    resolved(tmp_path, {"data.counting.train": write_jsonl(tmp_path / "second", given)}, train=settings)
    (tmp_path / "code").write_text("second")
    again = reproduce()
    assert "Running stage 'prepare_data@counting'" in again
    assert "Running stage 'after'" not in again
    assert digests(tmp_path / "data") == made
    assert runs() == 1

    (tmp_path / "third").mkdir()
    changed = write_jsonl(tmp_path / "third", given[:-1])
    resolved(tmp_path, {"data.counting.train": changed}, train={**settings, "sha256": "y"})
    reproduce()
    assert runs() == 2


@pytest.mark.slow
def test_what_dvc_took_away_before_a_failed_check_can_be_had_again(tmp_path: Path) -> None:
    def reproduce() -> subprocess.CompletedProcess[str]:
        return dvc(tmp_path, "repro", "--single-item", "prepare_data@counting")

    make_dvc_project(tmp_path)
    broken = {"source": "jsonl", "sha256": "x"}
    resolved(tmp_path, {"data.counting.train": write_jsonl(tmp_path, [row(9, ground_truth="many")])}, train=broken)
    way_back = "`dvc checkout prepare_data@counting` brings the last good data back"
    first = reproduce()
    assert "answer_not_a_count" in first.stderr
    assert way_back not in first.stderr  # there were none

    resolved(tmp_path)
    assert reproduce().returncode == 0
    good = digests(tmp_path / "data" / "counting")
    resolved(tmp_path, {"data.counting.train": tmp_path / "rows.jsonl"}, train=broken)
    failed = reproduce()
    assert failed.returncode != 0
    assert way_back in failed.stderr
    assert not (tmp_path / "data" / "counting").exists()
    assert dvc(tmp_path, "checkout", "prepare_data@counting").returncode == 0
    assert digests(tmp_path / "data" / "counting") == good


def test_geometry_and_a_users_test_set(tmp_path: Path) -> None:
    rows = [row(number, question="Find x.", ground_truth=r"2\sqrt{3}") for number in range(3)] + [row(0), row(0)]
    path = write_jsonl(tmp_path, rows)
    resolved(
        tmp_path,
        {"data.geometry.test": path},
        test={"source": "jsonl", "sha256": "x", "licence": "MIT"},
        validation={"fraction": 0.2},
        train_samples=3,
    )
    ran = step(tmp_path, "--task", "geometry")
    assert ran.returncode == 0, ran.stderr
    row_check, split_check = ran.stderr.splitlines()
    assert row_check == "geometry test: warning: 1 rows stay although duplicate"
    assert split_check.startswith("geometry test: warning: expect_column_values_to_be_unique(sample_id) failed: ")
    data = tmp_path / "data" / "geometry"
    assert [len(read_split(data, split)) for split in ("train", "validation", "test")] == [3, 1, 5]


@pytest.mark.parametrize("task", ["counting", "geometry"])
def test_mistakes_are_one_line(tmp_path: Path, task: str) -> None:
    missing = step(tmp_path, "--task", task)
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1
    resolved(tmp_path, {f"data.{task}.test": tmp_path / "absent.jsonl"}, test={"source": "jsonl", "sha256": "x"})
    absent = step(tmp_path, "--task", task)
    assert absent.returncode == 1
    assert absent.stderr.splitlines() == [
        f"data.{task}.test.path: {tmp_path / 'absent.jsonl'} is no file; it should be a .jsonl file"
    ]
    assert not (tmp_path / "data").exists()


def test_a_stop_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    resolved(tmp_path, train={**SYNTHETIC, "rows": 500_000})
    status = tmp_path / ".othink" / "stages" / "prepare_data@counting.json"
    running = subprocess.Popen(
        [sys.executable, "-m", "steps.prepare_data", "--task", "counting"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if status.exists() and json.loads(status.read_text())["progress"]["done"] > 0:
            break
        time.sleep(0.05)
    running.terminate()
    assert running.communicate(timeout=60)[1].splitlines() == ["interrupted by SIGTERM"]
    assert running.returncode == 143
    assert json.loads(status.read_text())["state"] == "interrupted"
    assert not (tmp_path / "data").exists()


def test_usage(tmp_path: Path) -> None:
    helped = step(tmp_path, "--help")
    assert helped.returncode == 0
    assert "data/<task>/" in helped.stdout
    assert step(tmp_path, "--task", "chess").returncode == 2
    assert step(tmp_path).returncode == 2
