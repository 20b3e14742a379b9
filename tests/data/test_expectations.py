"""The dataset as a whole, through real Great Expectations."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from othink_mr1.data import expectations
from othink_mr1.data.prepare import Prepared, prepare
from othink_mr1.errors import UserError

Build = Callable[[], Prepared]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Makes good data anew, for a test to spoil."""

    def make() -> Prepared:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        size = {"source": "synthetic", "image_size": 64}
        settings = {"train": {**size, "size": 20}, "validation": {**size, "size": 4}, "test": {**size, "size": 8}}
        return prepare("counting", settings, 0, {}, folder)

    return make


def test_good_data_pass_and_the_data_docs_show_each_split(build: Build, tmp_path: Path) -> None:
    assert expectations.validate(build(), {"max_quarantined": 0.05}, tmp_path / "docs") == []
    assert (tmp_path / "docs" / "index.html").is_file()
    pages = {path.stem for path in (tmp_path / "docs" / "validations").rglob("*.html")}
    assert pages == {"counting-train", "counting-validation", "counting-test"}


def test_each_failure_says_what_was_seen_and_what_is_right(build: Build, tmp_path: Path) -> None:
    prepared = build()
    train = prepared.table["train"]
    train[2]["answer"] = "seven"
    train[3]["sample_id"] = train[4]["sample_id"]
    train[5]["problem"] = None
    train[6]["width"] = 20
    prepared.splits["train"].quarantined["duplicate"] = 2
    prepared.splits["train"].example = "synthetic:1: duplicate (of synthetic:0)"
    lines = [str(one) for one in expectations.validate(prepared, {"max_quarantined": 0.05}, tmp_path / "docs")]
    told = "\n".join(lines)
    for column, seen in {
        r"max_to_be_between\(share_quarantined\)": r"0\.1, expected at most 0\.05; such as synthetic:1: duplicate .*",
        r"values_to_match_regex\(answer\)": r"1 of 20 .* matching \^\[0-9\]\+\$; such as synthetic:2 with 'seven'",
        r"values_to_be_unique\(sample_id\)": r"2 of 20 .*; such as synthetic:3 with '[0-9a-f]{32}'",
        r"values_to_not_be_null\(problem\)": r"1 of 20 .*; such as synthetic:5 with 'None'",
        r"values_to_be_between\(width\)": r"1 of 20 .*, expected at least 28; such as synthetic:6 with '20'",
    }.items():
        line = f"train split: expect_column_{column} failed: observed {seen}"
        assert re.search(f"^{line}$", told, re.MULTILINE), f"{line}\nin\n{told}"


def test_too_few_rows(build: Build, tmp_path: Path) -> None:
    (failure,) = expectations.validate(build(), {"min_rows": 8}, tmp_path / "docs")
    assert (failure.split, failure.observed, failure.expected) == ("validation", "4", "at least 8")


def test_a_test_set_may_hold_what_train_may_not(build: Build, tmp_path: Path) -> None:
    prepared = build()
    prepared.table["test"][1]["answer"] = "many"
    prepared.table["test"][2]["sample_id"] = prepared.table["test"][3]["sample_id"]
    assert expectations.validate(prepared, {}, tmp_path / "docs") == []


def test_nothing_is_printed(build: Build, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepared = build()
    prepared.table["train"][2]["answer"] = "seven"
    capfd.readouterr()
    expectations.validate(prepared, {}, tmp_path / "docs")
    assert capfd.readouterr() == ("", "")


def test_the_error_is_one_line_that_names_the_task_and_the_report(tmp_path: Path) -> None:
    failure = expectations.Failure("train", "expect_x(y)", "1", "at most 0", "; such as row 3")
    expectations.require([], "counting", tmp_path)
    with pytest.raises(UserError) as caught:
        expectations.require([failure, failure], "counting", Path("docs"))
    assert str(caught.value) == (
        "data.counting: train split: expect_x(y) failed: observed 1, expected at most 0; such as row 3 "
        "(and 1 more); see docs/index.html"
    )
