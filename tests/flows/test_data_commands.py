"""`othink data` on data that the real step prepared, versioned by real git and DVC."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from othink_mr1.data.schema import QUARANTINE_SCHEMA, ParquetSink
from tests.flows.conftest import REPO, make_project, othink, othink_environment

pytestmark = pytest.mark.slow
ROWS = [f'{{"image": "{number}.png", "problem": "How many?", "answer": {number % 4}}}' for number in range(24)]
SMALL = "{source: synthetic, rows: 4, image_size: 64}"
OVERRIDES = [
    *("--set", "data.counting={train: {source: jsonl, path: own/rows.jsonl, licence: MIT}}"),
    *("--set", f"data.counting.validation={SMALL}", "--set", f"data.counting.test={SMALL}"),
    *("--set", "data.counting.checks={max_answer_drift: 0.1}"),
    *("--set", f"data.geometry={{train: {SMALL}, validation: {SMALL}, test: {SMALL}}}"),
]
PREPARE = ["run", "--profile", "smoke", *OVERRIDES, "--only", "prepare_data"]


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def write_rows(folder: Path, lines: list[str]) -> None:
    (folder / "own").mkdir(exist_ok=True)
    for number in range(26):
        Image.new("RGB", (40, 32), (number * 9, 0, 77)).save(folder / "own" / f"{number}.png")
    (folder / "own" / "rows.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the real `prepare_data`; its first version of the data is committed."""
    folder = make_project(tmp_path_factory.mktemp("data") / "project")
    shutil.copy(REPO / "steps" / "prepare_data.py", folder / "steps")
    write_rows(folder, [*ROWS, '{"image": "absent.png", "problem": "How many?", "answer": 3}'])
    done = othink(folder, *PREPARE)
    assert done.returncode == 0, done.stderr
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first data")
    git(folder, "tag", "first")
    return folder


def told(clone: Path, *arguments: str) -> Any:
    done = othink(clone, "data", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def refused(clone: Path, *arguments: str) -> str:
    done = othink(clone, *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


def test_show(clone: Path, tmp_path: Path) -> None:
    found = told(clone, "show", "--task", "counting", "--out", str(tmp_path / "sheet.png"))["counting"]
    assert found["train"]["rows"] == 24
    assert found["train"]["answers"] == {"0": 6, "1": 6, "2": 6, "3": 6}
    assert found["train"]["picture_sizes"] == {"32-63 x 32-63": 24}
    assert found["train"]["quarantined"] == {"picture_missing": 1}
    assert (found["train"]["licence"], found["test"]["licence"]) == ("MIT", "Apache-2.0")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000
        assert (9 * 9, 0, 77) in {color for _, color in sheet.convert("RGB").getcolors(10**6)}
    lines = othink(clone, "data", "show", "--task", "counting", "--split", "train").stdout.splitlines()
    assert lines[0] == "counting train: 24 rows of jsonl rows.jsonl (licence MIT), 1 put aside"
    assert lines[2].split() == ["0", "█" * 40, "6", "(25.0%)"]


def test_quarantine(clone: Path, tmp_path: Path) -> None:
    [reason] = told(clone, "quarantine", "--task", "counting", "--export", str(tmp_path / "out"))["counting"]
    assert (reason["reason"], reason["rows"]) == ("picture_missing", 1)
    assert json.loads((tmp_path / "out" / "reasons.jsonl").read_text())["source"] == "rows.jsonl:25"
    assert othink(clone, "data", "quarantine").stdout.splitlines()[-1] == "geometry: no row was put aside"


def test_diff_accept_and_a_change_that_is_refused(clone: Path) -> None:
    assert refused(clone, "data", "diff", "first~1", "--task", "counting").endswith(
        "no dvc.lock there names them; commit dvc.lock after a run to compare with it later"
    )
    assert told(clone, "accept", "--task", "counting")[0]["changed"] is True
    assert told(clone, "accept", "--task", "counting")[0]["changed"] is False

    changed = [ROWS[0].replace('"answer": 0', '"answer": 2'), *ROWS[2:], ROWS[0].replace("0.png", "24.png")]
    write_rows(clone, changed)
    done = othink(clone, *PREPARE)
    assert done.returncode == 0, done.stderr
    found = told(clone, "diff", "first", "--task", "counting")["counting"]
    assert [row["source"] for row in found["added"]] == ["rows.jsonl:24"]
    assert [row["source"] for row in found["removed"]] == ["rows.jsonl:2"]
    assert [change["fields"]["answer"] for change in found["changed"]] == [["0", "2"]]
    assert found["now"] == {"train": 24, "validation": 4, "test": 4}

    good = {path: path.read_bytes() for path in (clone / "data" / "counting").rglob("*.*")}
    write_rows(clone, [line[: line.index('"answer"')] + '"answer": 9}' for line in ROWS])
    done = othink(clone, *PREPARE)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert "(answer_drift) failed: observed 1, expected at most 0." in line
    assert "`othink data accept --task counting --refused` accepts them" in line
    assert {path: path.read_bytes() for path in (clone / "data" / "counting").rglob("*.*")} == good
    assert told(clone, "show", "--task", "counting", "--refused")["counting"]["train"]["answers"]["9"] == 24
    assert told(clone, "accept", "--task", "counting", "--refused")[0]["changed"] is True
    assert othink(clone, *PREPARE).returncode == 0
    assert told(clone, "show", "--task", "counting")["counting"]["train"]["answers"]["9"] == 24


def dvc(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    subprocess.run(command, cwd=folder, env=othink_environment(folder), check=True, capture_output=True)


def test_versions_with_one_file_a_split_can_be_compared(clone: Path, tmp_path: Path) -> None:
    here = shutil.copytree(clone, tmp_path / "here")
    git(here, "checkout", "-qf", "first")
    dvc(here, "checkout", "--force", "data/counting")
    for split in ("train", "validation", "test"):  # as they were kept at first
        folder = here / "data" / "counting" / split
        (file,) = folder.iterdir()
        file.rename(folder.with_suffix(".parquet"))
        folder.rmdir()
    dvc(here, "commit", "--force", "prepare_data@counting")
    git(here, "commit", "-qam", "one file a split")
    git(here, "tag", "old")
    git(here, "checkout", "-qf", "first")
    dvc(here, "checkout", "--force", "data/counting")
    found = told(here, "diff", "old", "--task", "counting")["counting"]
    assert (found["added"], found["removed"], found["changed"]) == ([], [], [])
    assert found["before"]["train"] == 24


def test_versions_come_back_from_a_remote(clone: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    git(clone, "clone", "-q", str(clone), str(here))
    git(here, "checkout", "-q", "first")
    for folder in (clone, here):
        dvc(folder, "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    dvc(clone, "push", "--all-commits")
    dvc(here, "pull", "data/counting")
    assert told(here, "show", "--task", "counting")["counting"]["train"]["rows"] == 24
    shutil.rmtree(here / ".dvc" / "cache")
    found = told(here, "diff", "first", "--task", "counting")["counting"]
    assert (found["added"], found["removed"], found["changed"]) == ([], [], [])
    shutil.rmtree(tmp_path / "store")
    shutil.rmtree(here / ".dvc" / "tmp")
    assert "neither DVC's cache nor a remote has them" in refused(here, "data", "diff", "first", "--task", "counting")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["show", "--task", "chess"], "task: 'chess' is unknown; it should be one of counting, geometry"),
        (["show", "--split", "dev"], "split: 'dev' is unknown; it should be one of train, validation, test"),
        (["show", "--out", "sheet.txt"], "--out sheet.txt: should end in .png"),
        (["show", "--refused", "--task", "geometry"], "data of geometry: no data that were refused"),
        (["diff", "nowhere"], "nowhere: git knows no such revision"),
        (["quarantine", "--export", "own"], "own: it is there already and not an empty folder; name a new one"),
    ],
)
def test_a_mistake_is_one_line(clone: Path, arguments: list[str], line: str) -> None:
    assert refused(clone, "data", *arguments) == f"othink: {line}"


def test_what_was_put_aside_is_shown_where_nothing_was_left(project: Path) -> None:
    folder = project / ".othink" / "prepare" / "counting" / "data"
    folder.mkdir(parents=True)
    row = {"task": "counting", "split": "train", "source": "rows.jsonl:1", "reason": "answer_missing", "detail": ""}
    with ParquetSink(folder / "quarantine.parquet", QUARANTINE_SCHEMA) as sink:
        sink.write({**row, "image": {"bytes": None, "path": None}, "problem": "How many?", "answer": None})
    [reason] = told(project, "quarantine", "--refused", "--task", "counting")["counting"]
    assert reason["reason"] == "answer_missing"


def test_before_anything_was_prepared(project: Path) -> None:
    for command in (["show"], ["quarantine"], ["accept"], ["diff", "HEAD"]):
        assert refused(project, "data", *command) == (
            "othink: data of counting: not prepared yet; `othink run` prepares them"
        )
