"""Scoring finished completions, of this project and of others."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.commands.score import score
from othink_mr1.errors import UserError
from othink_mr1.evaluation.score import prediction_rows, score_file, summarise
from othink_mr1.grpo.rollout import Completion


def _file(folder: Path, *lines: object) -> Path:
    path = folder / "completions.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


ROWS = [
    {"completion": "<think> a </think> <answer>7</answer>", "solution": "<answer> 7 </answer>"},
    {"completion": "<answer> seven </answer>", "solution": 7},
    {"completion": "<answer>8</answer> <answer>7</answer>", "solution": "7"},
    {"completion": "", "solution": "7"},
]


def test_both_protocols_on_the_same_file(tmp_path: Path) -> None:
    strict = score_file(_file(tmp_path, *ROWS, ""), "counting", "strict")
    assert strict == {
        "n": 4,
        "correct": 3,
        "accuracy": 0.75,
        "format_accuracy": 0.25,
        "ci95": pytest.approx([0.300642, 0.954413], abs=1e-6),
    }
    assert score_file(_file(tmp_path, *ROWS), "counting", "r1v")["correct"] == 1


def test_geometry_by_math_verify(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    rows = [{"completion": f"<answer> {i} </answer>", "solution": "70°"} for i in (69, 70, 71, "70°")]
    assert score_file(_file(tmp_path, *rows), "geometry", "r1v")["correct"] == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "completions.jsonl:2: not JSON"),
        ("[1]", "completions.jsonl:2: list, should be an object with completion and solution"),
        ('{"completion": "a"}', "completions.jsonl:2: solution is missing"),
        ('{"completion": 1, "solution": "a"}', "completions.jsonl:2: completion is int, should be text"),
        (
            '{"completion": "a", "solution": "many"}',
            "completions.jsonl:2: solution 'many' cannot be read as a counting",
        ),
        ("[" * 100_000, "completions.jsonl:2: not JSON"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        score_file(_file(tmp_path, ROWS[0], line), "counting", "strict")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        score_file(tmp_path / "absent.jsonl", "counting", "strict")
    with pytest.raises(UserError, match="no rows"):
        score_file(_file(tmp_path, ""), "counting", "strict")
    (tmp_path / "latin.jsonl").write_bytes(b'{"completion": "\xe9", "solution": "1"}\n')
    with pytest.raises(UserError, match="1: not UTF-8 text"):
        score_file(tmp_path / "latin.jsonl", "counting", "strict")


def test_the_command_prints_json_for_programs_and_a_line_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _file(tmp_path, *ROWS)
    score(path, "counting", "strict", as_json=True)
    assert set(json.loads(capsys.readouterr().out)) == {"n", "correct", "accuracy", "format_accuracy", "ci95"}
    score(path, "counting")
    assert "3 of 4 right: 75.0% (strict)" in capsys.readouterr().out


def test_a_direct_answer_needs_no_tags_and_a_reasoned_one_does() -> None:
    samples = {"sample_id": ["a", "b"], "solution": ["<answer> 7 </answer>", "<answer> 7 </answer>"]}
    found = [Completion("7", 1, False), Completion("<answer> 7 </answer>", 5, True)]

    def right(kind: str) -> list[tuple[bool, bool]]:
        rows = prediction_rows(samples, "counting", kind, ["", ""], found, "base", "")
        return [(row["correct_strict"], row["correct_r1v"]) for row in rows]

    assert right("direct") == [(True, True), (True, True)]
    assert right("reasoning") == [(False, False), (True, True)]


def test_an_unreadable_truth_counts_as_wrong_and_stays_in_the_count() -> None:
    samples = {"sample_id": ["a"], "solution": ["<answer> many </answer>"]}
    rows = prediction_rows(samples, "counting", "reasoning", [""], [Completion("many", 1, False)], "base", "")
    assert summarise(rows)["strict"]["correct"] == 0
    assert summarise(rows)["n"] == 1


@pytest.fixture
def folder(project: Path, model_folder: Path, tmp_path: Path) -> Path:
    """A project with data and one model, not evaluated."""
    (tmp_path / "models").mkdir()
    (tmp_path / "data").symlink_to(project / "data")
    (tmp_path / "models" / "base").symlink_to(model_folder)
    (tmp_path / ".othink").mkdir()
    settings = (project / ".othink" / "params.yaml").read_text().replace("counting: 48", "counting: 6")
    settings = settings.replace("geometry: 48", "geometry: 6").replace("batch_size: 64", "batch_size: 4")
    (tmp_path / ".othink" / "params.yaml").write_text(settings)
    return tmp_path


def _evaluate(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "steps.evaluate", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_files(folder: Path) -> None:
    out, kept = folder / "evaluation" / "base", folder / ".othink" / "checkpoints"
    outputs = []
    for kill in (False, True):
        shutil.rmtree(out, ignore_errors=True)
        if kill:
            first = _evaluate(folder, "--model", "base")
            while first.poll() is None and _lines(kept) < 3:
                pass
            first.send_signal(signal.SIGKILL)
            first.communicate()
            assert 3 <= _lines(kept) < 40
            (journal,) = kept.glob("*/completions.jsonl")
            journal.write_bytes(journal.read_bytes()[:-5])  # the last line is half one
        run = _evaluate(folder, "--model", "base")
        error = run.communicate(timeout=300)[1]
        assert run.returncode == 0, error
        assert not list(kept.iterdir())
        assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "predictions.parquet"]
        outputs.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert outputs[0] == outputs[1]
    metrics = json.loads(outputs[0]["metrics.json"])
    assert metrics["model"] == "base"
    for task in ("counting", "geometry"):
        found = metrics["tasks"][task]
        assert found["n"] == found["direct"]["n"] == 40
        assert set(found["strict"]) == set(found["r1v"]) == {"correct", "accuracy", "ci95"}
    assert json.loads((folder / ".othink" / "stages" / "evaluate@base.json").read_text())["state"] == "done"


def _lines(checkpoints: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in checkpoints.glob("*/completions.jsonl"))


def test_a_missing_model_is_one_line(folder: Path) -> None:
    run = _evaluate(folder, "--model", "sft-counting")
    error = run.communicate(timeout=300)[1]
    assert run.returncode == 1
    assert error.strip().count("\n") == 0
    assert "models/sft-counting" in error


def test_an_unknown_model_is_a_wrong_call(folder: Path) -> None:
    run = _evaluate(folder, "--model", "gpt")
    assert "invalid choice: 'gpt'" in run.communicate(timeout=60)[1]
    assert run.returncode == 2
