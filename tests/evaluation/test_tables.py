"""The paper's tables, out of evaluations written by the project's own code."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from othink_mr1.errors import UserError
from othink_mr1.evaluation.figures import accuracy_bars, save
from othink_mr1.evaluation.predictions import read_predictions
from othink_mr1.evaluation.tables import markdown, results
from othink_mr1.names import TASKS
from steps.tables import write_tables


@pytest.fixture(scope="module")
def found(project: Path) -> dict:
    return json.loads((project / "tables" / "results.json").read_text())


def test_every_model_stands_in_both_tables_and_the_base_under_both_prompts(found: dict) -> None:
    for kind in ("same_task", "cross_task"):
        shown = [(row["task"], row["method"], row["prompt_kind"]) for row in found[kind]]
        per_task = [("base", "direct"), *((m, "reasoning") for m in ("base", "sft", "grpo", "grpo_d"))]
        assert shown == [(task, *each) for task in TASKS for each in per_task]
    assert {row["model"] for row in found["cross_task"] if row["task"] == "counting"} == {
        "base", "sft-geometry", "grpo-geometry", "grpo_d-geometry",
    }  # fmt: skip


def test_accuracies_are_those_of_the_predictions(found: dict, project: Path) -> None:
    for row in found["same_task"] + found["cross_task"]:
        kept = [
            one
            for one in read_predictions(project / "evaluation" / row["model"])
            if (one["task"], one["prompt_kind"]) == (row["task"], row["prompt_kind"])
        ]
        assert row["n"] == len(kept) == 40
        assert row["strict"]["correct"] == sum(one["correct_strict"] for one in kept)
        assert row["r1v"]["correct"] == sum(one["correct_r1v"] for one in kept)
        assert row["clipped"] == sum(one["clipped"] for one in kept) / 40


def test_right_answers_by_true_answer_add_up(found: dict, project: Path) -> None:
    for task in TASKS:
        rows = found["by_answer"][task]
        totals = {row["method"]: row["strict"]["correct"] for row in found["same_task"]
                  if row["task"] == task and row["prompt_kind"] == "reasoning"}  # fmt: skip
        assert sum(row["n"] for row in rows) == 40
        assert {method: sum(row["right"][method] for row in rows) for method in totals} == totals
    kept = read_predictions(project / "evaluation" / "sft-counting")
    threes = [one for one in kept if one["task"] == "counting" and one["solution"] == "<answer> 3 </answer>"]
    three = next(row for row in found["by_answer"]["counting"] if row["answer"] == "3")
    assert (three["n"], three["right"]["sft"]) == (len(threes), sum(one["correct_strict"] for one in threes))
    assert [row["answer"] for row in found["by_answer"]["counting"]] == sorted(
        row["answer"] for row in found["by_answer"]["counting"]
    )
    with (project / "tables" / "by_answer.csv").open() as file:
        assert sum(int(row["right"]) for row in csv.DictReader(file) if row["method"] == "base") > 0


def test_relative_change_is_the_papers(found: dict) -> None:
    base, sft = (
        next(
            r for r in found["same_task"] if (r["task"], r["method"], r["prompt_kind"]) == ("counting", m, "reasoning")
        )
        for m in ("base", "sft")
    )
    expected = (sft["strict"]["accuracy"] - base["strict"]["accuracy"]) / base["strict"]["accuracy"]
    assert sft["strict"]["relative_change"] == pytest.approx(expected)
    assert base["strict"]["relative_change"] is None


def test_comparisons_pair_the_same_items(found: dict) -> None:
    for kind, comparisons in found["comparisons"].items():
        assert len(comparisons) == 10
        for c in comparisons:
            rows = {row["model"]: row for row in found[kind.replace("-", "_")] if row["task"] == c["task"] and row["prompt_kind"] == "reasoning"}  # fmt: skip # noqa: E501
            right = rows[c["first"]]["strict"]["correct"] - rows[c["second"]]["strict"]["correct"]
            assert c["only_first"] - c["only_second"] == right
            assert c["p_adjusted"] >= c["p_value"]


def test_the_papers_numbers_come_with_its_profiles_only(project: Path, found: dict) -> None:
    assert all(row["paper"] is None for row in found["same_task"])
    with_paper = results(project / "evaluation", paper_size="2b")
    assert "; paper 76.50" in markdown(with_paper, "same-task", "r1v")
    assert "; paper 69.50" in markdown(with_paper, "cross-task", "r1v")
    assert "paper" not in markdown(with_paper, "same-task", "strict")  # the paper counts as R1-V does


def test_files_hold_the_same_bytes_each_time(project: Path, tmp_path: Path) -> None:
    for name in ("evaluation", "training"):
        shutil.copytree(project / name, tmp_path / name)

    class Silent:
        def progress(self, done: int, total: int, what: str) -> None: ...

    write_tables({"confidence": 0.95}, True, Silent(), tmp_path)  # type: ignore[arg-type]
    names = sorted(path.name for path in (project / "tables").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "tables").iterdir())
    assert {
        "results.json",
        "same_task.csv",
        "same_task.md",
        "same_task.png",
        "curves_counting.png",
        "by_answer.csv",
    } <= set(names)
    for name in names:
        assert (project / "tables" / name).read_bytes() == (tmp_path / "tables" / name).read_bytes(), name


def test_csv_has_a_line_a_row(project: Path, found: dict) -> None:
    with (project / "tables" / "same_task.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [row["model"] for row in found["same_task"]]
    assert float(rows[0]["strict_accuracy"]) == pytest.approx(found["same_task"][0]["strict"]["accuracy"])


def test_figures_carry_no_metadata(found: dict, tmp_path: Path) -> None:
    from PIL import Image

    save(accuracy_bars(found["same_task"], "Same task"), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert not {"Software", "Creation Time", "date:create"} & set(picture.info)
        assert picture.width > 800


def test_a_missing_model_is_named(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "evaluation", tmp_path / "evaluation")
    shutil.rmtree(tmp_path / "evaluation" / "grpo-counting")
    with pytest.raises(UserError, match=r"grpo-counting/metrics\.json: there is no such file"):
        results(tmp_path / "evaluation")
