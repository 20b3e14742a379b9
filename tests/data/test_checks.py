"""Each row alone."""

from typing import Any

import pytest
from makers import encoded, plain, png

from othink_mr1.data.checks import Accepted, Quarantined, RawRow, examine


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
        ({"thinking": "1 2</think> <answer> 2 </answer> 3"}, "answer_tags"),
        ({"thinking": "<think> 1 <think> 2 </think>"}, "answer_tags"),
        ({"thinking": "so it is <answer>3"}, "answer_tags"),
        ({"thinking": "3 </Answer >"}, "answer_tags"),
        ({"problem": "How many items? </think>"}, "answer_tags"),
        ({"problem": "How many items? Say <answer> 3 </answer>"}, "answer_tags"),
        ({"thinking": "1 " * 8001}, "thinking_too_long"),
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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_broken_picture_of_a_known_format_is_kept(kind: str) -> None:
    half = encoded(plain(), kind)
    half = half[: len(half) // 3]
    quarantined = check(picture=half)
    assert isinstance(quarantined, Quarantined)
    assert quarantined.row["reason"] in ("picture_unreadable", "picture_truncated")
    assert quarantined.row["image"]["bytes"] == half


@pytest.mark.parametrize("content", [b"SECRET=abc", b"BM_PASSWORD=abc, and more text", b"\x89PNX", b"RIFFabcdWAVE"])
def test_what_does_not_begin_as_a_picture_is_not_kept(content: bytes) -> None:
    quarantined = check(picture=content)
    assert isinstance(quarantined, Quarantined)
    row = quarantined.row
    assert (row["reason"], row["image"]["bytes"]) == ("picture_unreadable", None)
    assert row["detail"].endswith(f"; its {len(content)} bytes are not kept (they do not begin as a picture's)")
    assert not any(content in str(value).encode() for value in row.values())


def test_a_picture_too_large_to_be_kept_is_told() -> None:
    large = png() + bytes(8_000_000)
    quarantined = check(picture=large, answer="many")
    assert isinstance(quarantined, Quarantined)
    assert quarantined.row["image"]["bytes"] is None
    told = f"; its {len(large)} bytes are not kept (at most 8000000 of a picture are)"
    assert quarantined.row["detail"].endswith(told)


def test_thinking_loses_its_tags_and_may_be_empty() -> None:
    with_tags, without = check(thinking="<think> 1 2 3 </think>"), check()
    assert isinstance(with_tags, Accepted)
    assert isinstance(without, Accepted)
    assert with_tags.row["thinking"] == "1 2 3"
    assert without.row["thinking"] == ""
    assert isinstance(check(thinking="1 " * 8000), Accepted)
    assert isinstance(check(thinking="a <b> and 3 < 4"), Accepted)


def rest(**changes: Any) -> tuple[dict[str, Any], list[str]]:
    """A test row as it stays, and what is reported of it."""
    accepted = check(split="test", **changes)
    assert isinstance(accepted, Accepted), accepted
    return accepted.row, [reason for reason, _ in accepted.reported]


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ({"problem": "x" * 4001}, "question_too_long"),
        ({"problem": "What color is the cube?"}, "question_not_a_count"),
        ({"problem": "What time is it?"}, "question_not_a_count"),
        ({"thinking": "1 " * 8001}, "thinking_too_long"),
        ({"answer": "three"}, "answer_not_a_count"),
        ({"answer": None}, "answer_missing"),
        ({"answer": ""}, "answer_missing"),
        ({"answer": 3, "solution": "<answer> 4 </answer>"}, "answer_contradicts_solution"),
        ({"task": "geometry", "answer": "x + 2"}, "answer_unreadable"),
    ],
)
def test_test_rows_stay_where_a_model_can_be_asked_at_all(given: dict[str, Any], reported: str) -> None:
    assert set(rest(**given)[1]) == {reported}


def test_what_would_break_a_prompt_is_spelled_apart_in_a_test_row() -> None:
    row, reported = rest(problem="How many <|image_pad|> items \ud800?")
    assert row["problem"] == "How many < |image_pad|> items ??"
    assert reported == ["text_not_unicode", "special_tokens"]
    row, reported = rest(problem="How many items? </think><answer>3</answer>", thinking="1 </think> 2")
    assert row["problem"] == "How many items? < /think>< answer>3< /answer>"
    assert row["thinking"] == "1 < /think> 2"
    assert reported == ["answer_tags", "answer_tags"]
    assert rest(problem=row["problem"], thinking=row["thinking"]) == (row, [])
    assert reason(split="test", problem=" ") == "question_missing"
    assert reason(split="test", picture=b"") == "picture_unreadable"


@pytest.mark.parametrize(
    "problem",
    [
        "How many different items are there in the image?",
        "What number of large things are either cubes or red objects?",
        "There is a big gray object; how many things have the same color?",
        "Is it true? Count the items.",
        "What is the total number of shapes?",
        "图中有多少个物体？",
        "What is the number of cubes?",
        "Which number of cubes would be left?",
        "Find the number of red cubes.",
        "Please list the cubes and count them.",
        "What is the total of red and blue cubes?",
        "How much cubes are there?",
        "How often does a cube appear?",
        "Find antallet af kuber.",
        "Wie viele Würfel sind zu sehen?",
        "Number of cubes:",
        "Whatever is red: give its number.",
    ],
)
def test_questions_for_a_count(problem: str) -> None:
    assert isinstance(check(problem=problem), Accepted)


@pytest.mark.parametrize(
    "problem",
    [
        "What is the area of the triangle?",
        "what's in the image",
        "Find x.",
        "Please describe the image.",
        "What time is it?",
        "Which country is this?",
        "How old is the man?",
        "How much is the book?",
        "Where is the cube?",
        "Who made it?",
        "Why is it red?",
        "When was it made?",
        "Explain the picture.",
        "List the cubes.",
        "Name the man.",
    ],
)
def test_questions_for_something_else(problem: str) -> None:
    assert reason(problem=problem) == "question_not_a_count"
    assert isinstance(check(task="geometry", problem=problem), Accepted)


@pytest.mark.parametrize(
    "problem",
    [
        "Are there any big brown cylinders?",
        "Is the number of cubes the same as the number of spheres?",
        "There is a big thing; what is its color?",
        "The cyan thing has what shape?",
        "Which material is the cube made of?",
    ],
)
def test_questions_of_clevrs_other_kinds(problem: str) -> None:
    assert reason(problem=problem) == "question_not_a_count"
    assert isinstance(check(task="geometry", problem=problem), Accepted)


def test_an_answer_that_its_own_tags_cut_off_cannot_be_read_back() -> None:
    assert reason(task="geometry", answer="3</answer> or 4") == "answer_unreadable"


def test_the_id_is_of_the_content_and_not_of_the_split() -> None:
    ids = [check(**given) for given in ({}, {"split": "test"}, {"answer": 4}, {"picture": png(1)}, {"problem": "?"})]
    names = [one.row["sample_id"] for one in ids if isinstance(one, Accepted)]
    assert names[0] == names[1]
    assert len(set(names)) == 4
    assert names[0] == "035cbab2ced8af15c8d3f5816f250c3e"
