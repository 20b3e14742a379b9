"""Each row alone, and the rows beside each other."""

from collections.abc import Sequence
from typing import Any

import pytest
from makers import png

from othink_mr1.data.checks import Accepted, Entry, Quarantined, RawRow, examine, settle


def check(task: str = "counting", split: str = "train", **changes: Any) -> Accepted | Quarantined:
    good: dict[str, Any] = {"picture": png(), "problem": "How many items?", "answer": 3}
    return examine(RawRow(split=split, source="rows.jsonl:1", **{**good, **changes}), task)


def answer(**changes: Any) -> str:
    accepted = check(task="geometry", **changes)
    assert isinstance(accepted, Accepted), accepted
    return str(accepted.row["answer"])


def reason(**changes: Any) -> str:
    quarantined = check(**changes)
    assert isinstance(quarantined, Quarantined)
    assert quarantined.row["detail"].isprintable()
    return str(quarantined.row["reason"])


def test_a_good_row() -> None:
    accepted = check()
    assert isinstance(accepted, Accepted)
    row = accepted.row
    assert (row["answer"], row["solution"], row["problem"]) == ("3", "<answer> 3 </answer>", "How many items?")
    assert (accepted.width, accepted.height) == (40, 32)
    assert len(row["sample_id"]) == 32


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"answer": 140}, "140"),
        ({"answer": 2.0}, "2"),
        ({"answer": 2.5}, "2.5"),
        ({"answer": " 70° "}, "70°"),
        ({"answer": "2√{3}cm"}, "2√{3}cm"),
        ({"answer": r"\frac{1}{2}"}, r"\frac{1}{2}"),
        ({"answer": None, "solution": "<answer> 70° </answer>"}, "70°"),
        ({"answer": None, "solution": "70°"}, "70°"),
        ({"answer": "70°", "solution": "<answer>70°</answer>"}, "70°"),
    ],
)
def test_answers_of_many_kinds(given: dict[str, Any], expected: str) -> None:
    assert answer(**given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"picture": None}, "picture_unreadable"),
        ({"picture": png(0, (20, 20))}, "picture_too_small"),
        ({"problem": None}, "question_missing"),
        ({"problem": " \n"}, "question_missing"),
        ({"problem": ["How many?"]}, "question_missing"),
        ({"problem": "x" * 4001}, "question_too_long"),
        ({"answer": None}, "answer_missing"),
        ({"answer": ""}, "answer_missing"),
        ({"answer": True}, "answer_missing"),
        ({"answer": float("nan")}, "answer_missing"),
        ({"answer": {"value": 3}}, "answer_missing"),
        ({"answer": None, "solution": "<answer>  </answer>"}, "answer_missing"),
        ({"answer": "three"}, "answer_not_a_count"),
        ({"answer": -1}, "answer_not_a_count"),
        ({"answer": 2.5}, "answer_not_a_count"),
        ({"answer": "9" * 20}, "answer_not_a_count"),
        ({"task": "geometry", "answer": "x + 2"}, "answer_unreadable"),
        ({"task": "geometry", "answer": "A"}, "answer_unreadable"),
        ({"answer": 3, "solution": "<answer> 4 </answer>"}, "answer_contradicts_solution"),
        ({"problem": "How many <|image_pad|> items?"}, "special_tokens"),
        ({"thinking": "1 2 3<|im_end|>"}, "special_tokens"),
        ({"problem": "How many \ud800 items?"}, "text_not_unicode"),
        ({"failure": ("line_not_json", "Expecting value")}, "line_not_json"),
    ],
)
def test_rows_that_are_put_aside(given: dict[str, Any], expected: str) -> None:
    assert reason(**given) == expected


def test_a_quarantined_row_keeps_what_could_be_read() -> None:
    quarantined = check(answer="many")
    assert isinstance(quarantined, Quarantined)
    assert quarantined.row["image"]["bytes"] == png()
    assert quarantined.row["problem"] == "How many items?"
    assert quarantined.row["answer"] == "many"
    assert quarantined.row["source"] == "rows.jsonl:1"


def test_thinking_loses_its_tags_and_may_be_empty() -> None:
    with_tags, without = check(thinking="<think> 1 2 3 </think>"), check()
    assert isinstance(with_tags, Accepted)
    assert isinstance(without, Accepted)
    assert with_tags.row["thinking"] == "1 2 3"
    assert without.row["thinking"] == ""


def test_test_rows_stay_where_a_model_can_be_asked_at_all() -> None:
    accepted = check(split="test", answer="three")
    assert isinstance(accepted, Accepted)
    assert [reason for reason, _ in accepted.reported] == ["answer_not_a_count"]
    accepted = check(task="geometry", split="test", answer="x + 2")
    assert isinstance(accepted, Accepted)
    assert [reason for reason, _ in accepted.reported] == ["answer_unreadable"]
    assert reason(split="test", problem="<|vision_start|>") == "special_tokens"


def test_the_id_is_of_the_content_and_not_of_the_split() -> None:
    ids = [check(**given) for given in ({}, {"split": "test"}, {"answer": 4}, {"picture": png(1)}, {"problem": "?"})]
    names = [one.row["sample_id"] for one in ids if isinstance(one, Accepted)]
    assert names[0] == names[1]
    assert len(set(names)) == 4
    assert names[0] == "c6e646069762567d29c54642e9f860fc"


def entries(split: str, rows: Sequence[tuple[str, str, str]]) -> list[Entry]:
    """(pixels, question, answer) for each row."""
    return [
        Entry(split, position, f"id-{pixels}-{problem}-{answer}", pixels, problem, answer, f"{split}:{position}")
        for position, (pixels, problem, answer) in enumerate(rows)
    ]


def test_repeats_leave_the_first_row() -> None:
    verdict = settle({"train": entries("train", [("a", "q", "1"), ("b", "q", "1"), ("a", " q ", "1")])})
    assert verdict.rejected == {("train", 2): ("duplicate", "of train:0")}


def test_the_same_picture_may_be_asked_different_questions() -> None:
    assert not settle({"train": entries("train", [("a", "q", "1"), ("a", "other", "2")])}).rejected


def test_rows_that_contradict_each_other_all_go() -> None:
    verdict = settle({"train": entries("train", [("a", "q", "1"), ("b", "q", "1"), ("a", "q", "2")])})
    assert {key: why[0] for key, why in verdict.rejected.items()} == {
        ("train", 0): "conflict",
        ("train", 2): "conflict",
    }


def test_what_is_in_test_leaves_the_other_splits() -> None:
    leak = [("a", "q", "1")]
    verdict = settle(
        {
            "test": entries("test", leak),
            "validation": entries("validation", [("v", "q", "1"), *leak]),
            "train": entries("train", [("t", "q", "1"), *leak, ("v", "q", "1")]),
        }
    )
    assert verdict.rejected == {
        ("validation", 1): ("leaks_from_test", "it is test:0"),
        ("train", 1): ("leaks_from_test", "it is test:0"),
        ("train", 2): ("leaks_from_validation", "it is validation:0"),
    }


def test_a_leak_is_found_whatever_the_answers() -> None:
    verdict = settle({"test": entries("test", [("a", "q", "1")]), "train": entries("train", [("a", "q", "2")])})
    assert verdict.rejected == {("train", 0): ("leaks_from_test", "it is test:0")}


def test_repeats_within_test_are_reported_and_stay() -> None:
    verdict = settle({"test": entries("test", [("a", "q", "1"), ("a", "q", "1"), ("b", "q", "1"), ("b", "q", "2")])})
    assert not verdict.rejected
    assert {key[1]: why[0] for key, why in verdict.reported.items()} == {1: "duplicate", 2: "conflict", 3: "conflict"}


def test_splits_that_were_given_the_same_data_on_purpose_keep_it() -> None:
    same = {"test": entries("test", [("a", "q", "1")]), "train": entries("train", [("a", "q", "1")])}
    verdict = settle(same, {("train", "test")})
    assert not verdict.rejected
    assert verdict.reported == {("train", 0): ("leaks_from_test", "it is test:0")}
