"""Sources: synthetic settings, and jsonl files as people write them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from makers import png, row, write_jsonl

from othink_mr1.data.checks import RawRow, examine
from othink_mr1.data.sources import Request, open_source
from othink_mr1.errors import UserError


def read(path: Path, split: str = "train") -> list[RawRow]:
    source = open_source(Request("counting", split, {"source": "jsonl", "sha256": "abc"}, 0, path))
    rows = [row for job in source.jobs for row in job()]
    assert len(rows) == source.rows
    return rows


def failure(path: Path) -> str:
    (only,) = read(path)
    assert only.failure is not None, only
    assert str(path.parent) not in only.failure[1]
    return only.failure[0]


def test_keys_of_r1v(tmp_path: Path) -> None:
    (only,) = read(write_jsonl(tmp_path, [row(0, ground_truth="140°")]))
    assert (only.problem, only.answer, only.picture) == ("How many items are there in the image?", "140°", png(0))
    assert only.source == "rows.jsonl:1"


def test_our_keys(tmp_path: Path) -> None:
    ours = {"image": png(1), "problem": "How many?", "solution": "<answer> 3 </answer>", "thinking": "1 2 3"}
    (only,) = read(write_jsonl(tmp_path, [ours]))
    assert (only.problem, only.answer, only.solution, only.thinking) == ("How many?", None, ours["solution"], "1 2 3")
    assert only.picture == png(1)


def test_a_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, [row(0)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    (only,) = read(path)
    assert only.failure is None


def test_a_line_separator_inside_a_text_does_not_split_the_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "How\u2028many?", "ground_truth": 1}, ensure_ascii=False), encoding="utf-8")
    (only,) = read(path)
    assert only.problem == "How\u2028many?"


def test_a_broken_line_is_told_by_its_number_and_the_others_are_read(tmp_path: Path) -> None:
    rows = read(write_jsonl(tmp_path, [row(0), '{"question": ', row(2), "[1, 2]"]))
    assert [one.failure and one.failure[0] for one in rows] == [None, "line_not_json", None, "row_not_object"]
    assert rows[1].source == "rows.jsonl:2"


@pytest.mark.parametrize("name", ["absent.png", "", None, 7, "a\0b.png", "x" * 5000, "\ud800.png", "."])
def test_a_picture_that_is_not_there(tmp_path: Path, name: Any) -> None:
    assert failure(write_jsonl(tmp_path, [row(0, image_path=name)])) == "picture_missing"


def test_a_picture_outside_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    inside = tmp_path / "inside"
    inside.mkdir()
    for name in ("../secret.png", str(tmp_path / "secret.png"), "sub/../../secret.png"):
        assert failure(write_jsonl(inside, [row(0, image_path=name)])) == "picture_outside"
    os.symlink(tmp_path / "secret.png", inside / "link.png")
    assert failure(write_jsonl(inside, [row(0, image_path="link.png")])) == "picture_outside"
    # A way that comes back is fine.
    (inside / "here.png").write_bytes(png())
    (only,) = read(write_jsonl(inside, [row(0, image_path="../inside/here.png")]))
    assert only.picture == png()


def test_a_file_that_is_no_picture_does_not_get_into_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SECRET=abc")
    (only,) = read(write_jsonl(tmp_path, [row(0, image_path=".env")]))
    put_aside = examine(only, "counting").row
    assert (put_aside["reason"], put_aside["image"]["bytes"]) == ("picture_unreadable", None)
    assert "abc" not in str(put_aside)


def test_a_ring_of_links_is_no_picture(tmp_path: Path) -> None:
    os.symlink(tmp_path / "b.png", tmp_path / "a.png")
    os.symlink(tmp_path / "a.png", tmp_path / "b.png")
    assert failure(write_jsonl(tmp_path, [row(0, image_path="a.png")])) == "picture_missing"


def refused(settings: dict[str, Any], path: Path | None = None, task: str = "counting") -> str:
    with pytest.raises(UserError) as caught:
        open_source(Request(task, "train", settings, 0, path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    settings = {"source": "jsonl"}
    assert "data.counting.train.path" in refused(settings, tmp_path / "absent.jsonl")
    assert "data.counting.train.path" in refused(settings, None)
    (tmp_path / "empty.jsonl").write_text("\n \n")
    assert "holds no rows" in refused(settings, tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"question": "Größe"}'.encode("latin-1"))
    assert "latin.jsonl:1: not UTF-8 (byte 16 of the line)" in refused(settings, tmp_path / "latin.jsonl")


def test_settings_that_cannot_be_used() -> None:
    assert "'web'" in refused({"source": "web"})
    assert "data.counting.train.name: it is not set" in refused({"source": "hub"})
    assert "rows: None should be a whole number of at least 1" in refused({"source": "synthetic"})
    assert "image_size: 20" in refused({"source": "synthetic", "rows": 3, "image_size": 20})
    assert "no synthetic scenes of 'chess'" in refused({"source": "synthetic", "rows": 3}, task="chess")


@pytest.mark.parametrize("task", ["counting", "geometry"])
def test_synthetic_rows_are_whole(task: str) -> None:
    source = open_source(Request(task, "test", {"source": "synthetic", "rows": 5, "image_size": 64}, 0))
    rows = [row for job in source.jobs for row in job()]
    assert [one.source for one in rows] == [f"synthetic:{index}" for index in range(5)]
    assert all(one.picture and one.problem and one.answer and one.thinking for one in rows)
    assert source.licence == "Apache-2.0"
