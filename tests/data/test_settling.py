"""The rows beside each other: repeats, conflicts, leaks."""

from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from makers import drawing, encoded
from PIL import Image

from othink_mr1.data.checks import Accepted
from othink_mr1.data.closer_look import CloserLook
from othink_mr1.data.copies import thumbnail
from othink_mr1.data.index import Index, opened
from othink_mr1.data.parallel import Workers
from othink_mr1.data.settling import settle, settle_near
from othink_mr1.data.synthetic import counting
from othink_mr1.data.waiting import Arrivals, waiting_room

PLAIN = Image.new("RGB", (64, 64), (200, 200, 200))
Row = tuple[str, str, str]  # pixels, question, answer


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with waiting_room(tmp_path / "waiting"), opened(tmp_path / "index.sqlite") as made:
        yield made


def waiting(index: Index) -> Path:
    return index.path.parent / "waiting"


def look(index: Index) -> CloserLook:
    return CloserLook(waiting(index), Workers(1))


def add(index: Index, split: str, rows: Sequence[Row], pictures: Sequence[Image.Image] = ()) -> None:
    with closing(Arrivals(waiting(index))) as arrivals:
        for position, (pixels, problem, answer) in enumerate(rows):
            picture = pictures[position] if pictures else PLAIN
            source = f"{split}:{position}"
            row: dict[str, Any] = {
                "split": split,
                "sample_id": source,
                "source": source,
                "problem": problem,
                "answer": answer,
            }
            row |= {"thinking": "", "image": arrivals.add(encoded(picture))}
            index.add(position, Accepted(row, pixels, *picture.size, thumbnail(picture), encoded_anew=False))


def found(index: Index, stays: bool = False) -> dict[tuple[str, int], tuple[str, str]]:
    rows = index.ask("SELECT split, position, reason, detail FROM findings WHERE stays = ?", stays)
    return {(split, position): (reason, detail) for split, position, reason, detail in rows}


def settled(
    index: Index, same_content: Container[tuple[str, str]] = (), **splits: Sequence[Row]
) -> dict[tuple[str, int], tuple[str, str]]:
    """Why rows go. Those that go have no place left, and no others."""
    for split, rows in splits.items():
        add(index, split, rows)
    index.finish()
    settle(index, look(index), same_content)
    gone = set(index.ask("SELECT split, position FROM rows WHERE place IS NULL"))
    assert gone == set(found(index))
    return found(index)


def test_repeats_leave_the_first_row(index: Index) -> None:
    rejected = settled(index, train=[("a", "q", "1"), ("b", "q", "1"), ("a", " q ", "1")])
    assert rejected == {("train", 2): ("duplicate", "of train:0")}


def test_the_same_picture_may_be_asked_different_questions(index: Index) -> None:
    assert not settled(index, train=[("a", "q", "1"), ("a", "other", "2")])


def test_rows_that_contradict_each_other_all_go(index: Index) -> None:
    rejected = settled(index, train=[("a", "q", "1"), ("b", "q", "1"), ("a", "q", "2")])
    why = ("conflict", "the same picture and question with '1', '2'")
    assert rejected == {("train", 0): why, ("train", 2): why}


def test_what_is_in_test_leaves_the_other_splits(index: Index) -> None:
    leak = ("a", "q", "1")
    rejected = settled(
        index,
        train=[("t", "q", "1"), leak, ("v", "q", "1")],
        validation=[("v", "q", "1"), leak],
        test=[leak],
    )
    assert rejected == {
        ("validation", 1): ("leaks_from_test", "it is test:0"),
        ("train", 1): ("leaks_from_test", "it is test:0"),
        ("train", 2): ("leaks_from_validation", "it is validation:0"),
    }


def test_a_leak_is_found_whatever_the_answers(index: Index) -> None:
    rejected = settled(index, test=[("a", "q", "1")], train=[("a", "q", "2")])
    assert rejected == {("train", 0): ("leaks_from_test", "it is test:0")}


def test_repeats_within_test_are_reported_and_stay(index: Index) -> None:
    rows = [("a", "q", "1"), ("a", "q", "1"), ("b", "q", "1"), ("b", "q", "2")]
    assert not settled(index, test=rows)
    reported = {key[1]: why[0] for key, why in found(index, stays=True).items()}
    assert reported == {1: "duplicate", 2: "conflict", 3: "conflict"}


def test_splits_that_were_given_the_same_data_on_purpose_keep_it(index: Index) -> None:
    assert not settled(index, {("train", "test")}, test=[("a", "q", "1")], train=[("a", "q", "1")])
    assert found(index, stays=True) == {("train", 0): ("leaks_from_test", "it is test:0")}


def test_a_row_that_stays_for_one_reason_goes_for_another(index: Index) -> None:
    scene = counting.scene(0, 0, "train", 128)["image"]
    add(index, "test", [("scaled", "q", "1")], [scene.resize((64, 64), Image.Resampling.BICUBIC)])
    add(index, "validation", [("a", "q", "1")], [scene])
    add(index, "train", [("a", "q", "1")], [scene])
    assert settled(index, {("train", "validation")}) == {
        (split, 0): ("leaks_from_test", "its picture is a near copy of that of test:0")
        for split in ("validation", "train")
    }


def test_a_near_copy_leaks_only_with_the_same_question(index: Index) -> None:
    scenes = [counting.scene(0, number, "train", 128)["image"] for number in range(40)]
    small = [scene.resize((64, 64), Image.Resampling.BICUBIC) for scene in scenes]
    asked = [("How many cubes?" if number % 2 else "How many?") for number in range(40)]
    add(index, "test", [(f"small {number}", "How many?", "1") for number in range(40)], small)
    add(index, "train", [(f"large {number}", question, "1") for number, question in enumerate(asked)], scenes)
    rejected = settled(index)
    assert set(rejected) == {("train", number) for number in range(0, 40, 2)}
    assert rejected["train", 6] == ("leaks_from_test", "its picture is a near copy of that of test:6")


def test_a_validation_split_that_was_drawn_is_kept_clean_too(index: Index) -> None:
    scene = counting.scene(0, 0, "train", 128)["image"]
    pictures = [scene, scene.resize((90, 90), Image.Resampling.LANCZOS)]
    add(index, "train", [("a", "q", "1"), ("b", "q", "1")], pictures)
    assert not settled(index)
    index.ask("UPDATE rows SET place = 'validation' WHERE position = 1")
    settle_near(index, look(index), "train", "validation")
    why = ("leaks_from_validation", "its picture is a near copy of that of train:1")
    assert found(index) == {("train", 0): why}


def test_drawings_for_one_question_with_another_number_in_them_are_no_copies(index: Index) -> None:
    add(index, "test", [("a", "q", "1")], [drawing("50")])
    add(index, "train", [("b", "q", "1"), ("c", "q", "1")], [drawing("60"), drawing("50").resize((160, 120))])
    assert set(settled(index)) == {("train", 1)}
