"""The dataset as a whole, through real Great Expectations."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from makers import split_rows, write_split

from othink_mr1.data import expectations
from othink_mr1.data.prepare import Prepared, prepare
from othink_mr1.data.profile import Profile
from othink_mr1.errors import UserError

Build = Callable[..., Prepared]
SOURCES = dict.fromkeys(("train", "validation", "test"), "synthetic 64 px")


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Makes good data anew, for a test to spoil."""

    def make(rows: int = 20) -> Prepared:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        size = {"source": "synthetic", "image_size": 64}
        settings = {"train": {**size, "rows": rows}, "validation": {**size, "rows": 4}, "test": {**size, "rows": 8}}
        return prepare("counting", settings, 0, {}, folder)

    return make


def spoil(prepared: Prepared, split: str, changes: Mapping[int, Mapping[str, Any]]) -> None:
    """Writes the split anew with other values in some of its rows."""
    rows = split_rows(prepared.folder, split)
    write_split(prepared.folder, split, [{**row, **changes.get(number, {})} for number, row in enumerate(rows)])


def validate(
    prepared: Prepared, checks: Mapping[str, Any], docs: Path, accepted: Mapping[tuple[str, str], Profile] | None = None
) -> expectations.Checked:
    return expectations.validate(prepared, checks, SOURCES, accepted or {}, docs)


def test_good_data_pass_and_the_data_docs_show_each_split(build: Build, tmp_path: Path) -> None:
    checked = validate(build(), {"max_quarantined": 0.05, "max_answer_share": 0.9}, tmp_path / "docs")
    assert checked.failures == []
    assert all(met == asked > 20 for met, asked in checked.met.values())
    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == ["test.html", "train.html", "validation.html"]
    assert "values must be unique" in (tmp_path / "docs" / "train.html").read_text()


def test_each_failure_says_what_was_seen_and_what_is_right(build: Build, tmp_path: Path) -> None:
    prepared = build()
    spoil(
        prepared,
        "train",
        {
            1: {"task": "geometry"},
            2: {"answer": "seven"},
            3: {"sample_id": "x"},
            4: {"sample_id": "x"},
            5: {"problem": None},
            7: {"solution": ""},
        },
    )
    prepared.sizes["train"][6, 0] = 20
    prepared.splits["train"].quarantined["duplicate"] = 2
    prepared.splits["train"].example = "synthetic:1: duplicate (of synthetic:0)"
    failures = validate(prepared, {"max_quarantined": 0.05}, tmp_path / "docs").failures
    assert {failure.severity for failure in failures} == {"critical"}
    told = "\n".join(f"{failure.split} split: {failure}" for failure in failures)
    for column, seen in {
        r"max_to_be_between\(share_quarantined\)": r"0\.1, expected at most 0\.05; such as synthetic:1: duplicate .*",
        r"values_to_be_in_set\(task\)": r"1 of 20 .*, expected one of \['counting'\]; such as synthetic:1 .*",
        r"values_to_match_regex\(answer\)": r"1 of 20 .* matching \^\[0-9\]\+\$; such as synthetic:2 with 'seven'",
        r"values_to_be_unique\(sample_id\)": r"2 of 20 .*; such as synthetic:3 with 'x', synthetic:4 with 'x'",
        r"values_to_not_be_null\(problem_length\)": r"1 of 20 .*; such as synthetic:5",
        r"values_to_be_between\(solution_length\)": r"1 of 20 .*, expected at least 1; such as synthetic:7 with '0.*'",
        r"values_to_be_between\(width\)": r"1 of 20 .*, expected at least 28; such as synthetic:6 with '20'",
    }.items():
        line = f"train split: expect_column_{column} failed: observed {seen}"
        assert re.search(f"^{line}", told, re.MULTILINE), f"{line}\nin\n{told}"
    assert len(failures) == 7


def test_what_an_expectation_raises_is_told(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = expectations._rows
    monkeypatch.setattr(expectations, "_rows", lambda *given: whole(*given).drop(columns="thinking_length"))
    failures = validate(build(), {}, tmp_path / "docs").failures
    assert {one.split for one in failures} == {"train", "validation", "test"}
    for failure in failures:
        assert "(thinking_length)" in failure.expectation
        assert failure.observed == 'Error: The column "thinking_length" in BatchData does not exist.'


def test_too_few_rows(build: Build, tmp_path: Path) -> None:
    (failure,) = validate(build(), {"min_rows": 8}, tmp_path / "docs").failures
    assert (failure.split, failure.observed, failure.expected) == ("validation", "4", "at least 8")


def test_what_train_may_not_hold_is_a_warning_in_a_test_set(build: Build, tmp_path: Path) -> None:
    prepared = build()
    spoil(prepared, "test", {1: {"answer": "many"}, 2: {"sample_id": "x"}, 3: {"sample_id": "x"}})
    failures = validate(prepared, {}, tmp_path / "docs").failures
    assert [failure.severity for failure in failures] == ["warning", "warning"]
    expectations.require(failures, "counting", tmp_path)


def test_answers_that_are_nearly_all_the_same_are_a_warning(build: Build, tmp_path: Path) -> None:
    prepared = build(40)
    for split in ("train", "test"):  # of the 8 rows in test, chance may give as much
        spoil(prepared, split, {number: {"answer": "3"} for number in range(36)})
    failures = validate(prepared, {"max_answer_share": 0.7}, tmp_path / "docs").failures
    assert [(one.split, one.severity, one.example) for one in failures] == [("train", "warning", "; it is '3'")]


def test_drift_from_the_accepted_profile_is_critical(build: Build, tmp_path: Path) -> None:
    limits = {"max_answer_drift": 0.1, "max_size_drift": 0.1}
    prepared = build()
    accepted = {
        (split, "synthetic 64 px"): profile
        for split, profile in validate(prepared, {}, tmp_path / "docs").profiles.items()
    }
    assert validate(prepared, limits, tmp_path / "docs", accepted).failures == []
    spoil(prepared, "train", {number: {"answer": "99"} for number in range(18)})
    prepared.sizes["train"][:] *= 4
    checked = validate(prepared, limits, tmp_path / "docs", accepted)
    answers, sizes = checked.failures
    assert str(answers).startswith(
        "expect_column_max_to_be_between(answer_drift) failed: observed 0.9, expected at most 0."
    )
    assert answers.example == "; most of all values not among the accepted ones: 90.0% of the rows, accepted were 0.0%"
    assert (sizes.expectation, sizes.observed) == ("expect_column_max_to_be_between(size_drift)", "1")
    with pytest.raises(UserError, match=r"`othink data accept --task counting --refused` accepts them$"):
        expectations.require(checked.failures, "counting", tmp_path)
    assert validate(prepared, {"max_answer_drift": None}, tmp_path / "docs", accepted).failures == []


def test_another_sources_profile_is_not_compared_with(build: Build, tmp_path: Path) -> None:
    prepared = build()
    other = {("train", "jsonl my.jsonl"): Profile("jsonl my.jsonl", 500, {"7": 500}, {"32-63 x 32-63": 500})}
    checked = validate(prepared, {"max_answer_drift": 0.1, "max_size_drift": 0.1}, tmp_path / "docs", other)
    assert checked.failures == []
    assert checked.without_reference == ["train", "validation", "test"]


def test_nothing_is_printed(build: Build, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepared = build()
    spoil(prepared, "train", {2: {"answer": "seven"}})
    capfd.readouterr()
    validate(prepared, {}, tmp_path / "docs")
    assert capfd.readouterr() == ("", "")


def test_the_error_is_one_line_that_names_the_task_and_the_report(tmp_path: Path) -> None:
    failure = expectations.Failure("train", "expect_x(y)", "critical", "1", "at most 0", "; such as row 3", "")
    expectations.require([], "counting", tmp_path)
    with pytest.raises(UserError) as caught:
        expectations.require([failure, failure], "counting", Path("docs"))
    assert str(caught.value) == (
        "data.counting: train split: expect_x(y) failed: observed 1, expected at most 0; such as row 3 "
        "(and 1 more); see docs/index.html"
    )
