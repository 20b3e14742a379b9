"""Rows that were put aside, counted and written out."""

import json
from pathlib import Path
from typing import Any

import pytest
from makers import png

from othink_mr1.data import quarantined
from othink_mr1.data.schema import QUARANTINE_SCHEMA, ParquetSink
from othink_mr1.errors import UserError


def row(number: int, reason: str, picture: bytes | None = None, split: str = "train") -> dict[str, Any]:
    texts = {"task": "counting", "source": f"x.jsonl:{number}", "detail": f"detail {number}", "answer": None}
    return {
        **texts,
        "split": split,
        "reason": reason,
        "image": {"bytes": picture, "path": None},
        "problem": "How\nmany?",
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [row(number, "duplicate", png(number)) for number in range(5)]
    rows += [
        row(5, "picture_unreadable", b"not a picture"),
        row(6, "picture_missing"),
        row(7, "duplicate", split="test"),
    ]
    with ParquetSink(tmp_path / "quarantine.parquet", QUARANTINE_SCHEMA) as sink:
        for one in rows:
            sink.write(one)
    return tmp_path / "quarantine.parquet"


def test_reasons_are_counted_with_the_first_examples(path: Path) -> None:
    found = quarantined.reasons(path)
    assert [(one["split"], one["reason"], one["rows"]) for one in found] == [
        ("train", "duplicate", 5),
        ("test", "duplicate", 1),
        ("train", "picture_missing", 1),
        ("train", "picture_unreadable", 1),
    ]
    assert found[0]["examples"][2] == {"source": "x.jsonl:2", "detail": "detail 2"}
    assert len(found[0]["examples"]) == 3


def test_pictures_are_written_as_their_bytes_came(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "there" / "out"
    assert quarantined.export([path], folder) == 8
    lines = [json.loads(line) for line in (folder / "reasons.jsonl").read_text().splitlines()]
    assert [line["picture"] for line in lines[3:8]] == [
        "000004-duplicate.png",
        "000005-duplicate.png",
        "000006-picture_unreadable.bin",
        None,
        None,
    ]
    assert (folder / "000002-duplicate.png").read_bytes() == png(1)
    assert (folder / "000006-picture_unreadable.bin").read_bytes() == b"not a picture"
    assert lines[0]["problem"] == "How\nmany?"
    assert len(list(folder.iterdir())) == 7
    assert list(folder.parent.iterdir()) == [folder]


def test_an_empty_folder_is_used_and_any_other_is_left_alone(path: Path, tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    for folder in (empty, full):
        folder.mkdir()
    (full / "mine.txt").write_text("mine")
    assert quarantined.export([path], empty) == 8
    for there in (full, full / "mine.txt"):
        with pytest.raises(UserError, match="not an empty folder"):
            quarantined.export([path], there)
    assert (full / "mine.txt").read_text() == "mine"


def test_what_fails_in_the_middle_leaves_no_folder(path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"broken\.parquet: cannot be read"):
        quarantined.export([path, broken], tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["broken.parquet", "quarantine.parquet"]


def test_whatever_byte_is_damaged_it_is_read_or_told_with_the_files_name(tmp_path: Path) -> None:
    with ParquetSink(tmp_path / "quarantine.parquet", QUARANTINE_SCHEMA) as sink:
        for number in range(3):
            sink.write(row(number, "duplicate", png(number)))
    whole = (tmp_path / "quarantine.parquet").read_bytes()
    damaged, told = tmp_path / "damaged.parquet", []
    for place in range(4, len(whole) - 8):
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            quarantined.reasons(damaged)
        except UserError as error:
            told.append(str(error))
    assert all(one.startswith(f"{damaged}: cannot be read (") and len(one.splitlines()) == 1 for one in told)
    assert any("decompression failed" in one for one in told)
