"""What differs between two versions of a dataset: added, removed, changed, by sample_id."""

from typing import Any

from othink_mr1.data.changes import Rows, compare
from othink_mr1.data.schema import sample_id


def row(picture: int, answer: str = "3", problem: str = "How many?", **other: Any) -> dict[str, str]:
    known = sample_id("counting", f"{picture:064x}"[::-1], problem, answer)
    texts = {"split": "train", "solution": f"<answer> {answer} </answer>", "thinking": "", "source": f"x:{picture}"}
    return {"sample_id": known, "problem": problem, "answer": answer, **texts, **other}


def counts(before: Rows, now: Rows) -> tuple[int, int, int]:
    found = compare(before, now)
    return len(found.added), len(found.removed), len(found.changed)


def test_the_same_rows_in_another_order_and_at_other_lines_are_the_same() -> None:
    before = [row(1), row(2), row(3)]
    assert counts(before, [row(3, source="x:1"), row(1), row(2)]) == (0, 0, 0)


def test_rows_come_and_go() -> None:
    found = compare([row(1), row(2), row(3, split="test")], [row(2), row(3, split="test"), row(4)])
    assert [one["source"] for one in found.added] == ["x:4"]
    assert [one["source"] for one in found.removed] == ["x:1"]
    assert found.changed == []
    assert found.before == found.now == {"train": 2, "validation": 0, "test": 1}


def test_a_row_that_moved_or_was_thought_about_otherwise_is_changed() -> None:
    found = compare([row(1), row(2)], [row(1, split="validation"), row(2, thinking="1 2 3")])
    assert [one.fields for one in found.changed] == [{"split": ("train", "validation")}, {"thinking": ("", "1 2 3")}]
    assert (found.added, found.removed) == ([], [])


def test_another_answer_to_the_same_question_about_the_same_picture_is_a_change() -> None:
    found = compare([row(1, "3"), row(2)], [row(1, "4"), row(2)])
    [change] = found.changed
    assert change.fields["answer"] == ("3", "4")
    assert change.sample_id == row(1, "4")["sample_id"]
    assert (found.added, found.removed) == ([], [])


def test_another_question_or_another_picture_is_another_row() -> None:
    assert counts([row(1)], [row(1, problem="How many cubes?")]) == (1, 1, 0)
    assert counts([row(1)], [row(2)]) == (1, 1, 0)


def test_a_row_that_stands_twice_in_a_test_set_counts_twice() -> None:
    assert counts([row(1), row(1)], [row(1)]) == (0, 1, 0)
    assert counts([row(1)], [row(1), row(1), row(1)]) == (2, 0, 0)


def test_a_row_that_stands_in_two_splits_and_leaves_one_of_them_is_removed_there() -> None:
    train, test = row(1, split="train"), row(1, split="test")
    found = compare([train, test], [test])
    assert (found.added, found.removed, found.changed) == ([], [train], [])
    found = compare([test], [train, test])
    assert (found.added, found.removed, found.changed) == ([train], [], [])
    assert counts([train, test], [test, train]) == (0, 0, 0)
    found = compare([train, test], [row(1, split="validation"), test])
    assert [one.fields for one in found.changed] == [{"split": ("train", "validation")}]


def test_repeats_that_only_changed_places_are_the_same() -> None:
    one, other = row(1, split="test"), row(1, split="test", thinking="1 2 3")
    assert counts([one, other], [other, one]) == (0, 0, 0)
    assert compare([one, other], [other]).removed == [one]


def test_another_answer_is_first_looked_for_in_the_same_split() -> None:
    train, test = row(1, "3"), row(1, "4", split="test")
    found = compare([train, test], [row(1, "5", split="test")])
    assert found.removed == [train]
    assert [one.fields["answer"] for one in found.changed] == [("4", "5")]
    assert "split" not in found.changed[0].fields
