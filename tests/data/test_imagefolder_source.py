"""Folders of pictures with metadata, as `datasets` defines them."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from makers import png

from othink_mr1.data.checks import RawRow
from othink_mr1.data.sources import Request, Source, open_source
from othink_mr1.errors import UserError


def opened(path: Path | None, into: str = "train", **settings: Any) -> Source:
    return open_source(Request("counting", into, {"source": "imagefolder", "sha256": "abc", **settings}, 0, path))


def read(path: Path, into: str = "train", **settings: Any) -> list[RawRow]:
    source = opened(path, into, **settings)
    rows = [row for job in source.jobs for row in job()]
    assert len(rows) == source.rows
    return rows


def pictures(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))
    return folder


def csv_folder(folder: Path, text: str, *names: str) -> Path:
    pictures(folder, *names)
    (folder / "metadata.csv").write_text(text, encoding="utf-8")
    return folder


def test_metadata_csv_is_read_as_datasets_reads_it(tmp_path: Path) -> None:
    text = 'file_name,problem,answer\na.png,"How many, in all?",3\nsub/b.png,How many?,4\n'
    folder = csv_folder(tmp_path / "train", text, "a.png", "sub/b.png")
    rows = read(tmp_path)
    assert [(row.problem, row.answer) for row in rows] == [("How many, in all?", "3"), ("How many?", "4")]
    assert [row.picture for row in rows] == [png(0), png(1)]
    assert [row.source for row in rows] == ["metadata.csv:2", "metadata.csv:3"]
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [(row["problem"], str(row["answer"])) for row in theirs] == [(row.problem, row.answer) for row in rows]


def test_metadata_jsonl_and_columns_of_other_names(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    lines = [{"file_name": "a.png", "query": "How many?", "label": 3}, {"file_name": "b.png", "query": "How many?"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    rows = read(tmp_path, columns={"problem": "query", "answer": "label"})
    assert [(row.problem, row.answer) for row in rows] == [("How many?", 3), ("How many?", None)]


def test_the_splits_are_folders(tmp_path: Path) -> None:
    for name, answer in (("train", 1), ("val", 2), ("extra", 3)):
        csv_folder(tmp_path / name, f"file_name,problem,answer\na.png,How many?,{answer}\n", "a.png")
    assert read(tmp_path)[0].answer == "1"
    assert read(tmp_path, "validation")[0].answer == "2"
    assert read(tmp_path, "train", split="extra")[0].answer == "3"
    assert read(tmp_path / "extra", "test")[0].answer == "3"
    assert opened(tmp_path).identity != opened(tmp_path, "validation").identity


def test_no_picture_and_no_row_is_lost(tmp_path: Path) -> None:
    lines = ["file_name,problem,answer", "a.png,How many?,3", "absent.png,How many?,3", "../b.png,How many?,3"]
    lines += ["a.png,1,2,3,4", "a.png"]
    csv_folder(tmp_path / "train", "\n".join(lines), "a.png", "left.png", "sub/over.JPG", "notes.txt")
    (tmp_path / "b.png").write_bytes(png())
    rows = read(tmp_path)
    assert [(row.source, row.failure and row.failure[0]) for row in rows] == [
        ("metadata.csv:2", None),
        ("metadata.csv:3", "picture_missing"),
        ("metadata.csv:4", "picture_outside"),
        ("metadata.csv:5", "row_not_csv"),
        ("metadata.csv:6", None),
        ("left.png", "not_in_metadata"),
        ("sub/over.JPG", "not_in_metadata"),
    ]
    assert rows[4].answer is None
    assert rows[5].picture == png(1)


def test_lines_that_are_no_json(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "problem": "?", "answer": 1}\n{"file\n\n7\n')
    rows = read(tmp_path)
    assert [row.failure and row.failure[0] for row in rows] == [None, "line_not_json", "row_not_object"]


def test_a_text_over_several_lines(tmp_path: Path) -> None:
    csv_folder(tmp_path, 'file_name,problem,answer\na.png,"How\n\nmany?",3\n', "a.png")
    assert [row.problem for row in read(tmp_path)] == ["How\n\nmany?"]


def refused(path: Path | None, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        [row for job in opened(path, **settings).jobs for row in job()]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    assert "absent is no folder" in refused(tmp_path / "absent")
    assert "data.counting.train.path: None is no folder" in refused(None)
    assert "should hold one of metadata.csv and metadata.jsonl, not 0" in refused(tmp_path)
    csv_folder(tmp_path, "file_name,problem,answer\n")
    assert "metadata.csv: holds no rows" in refused(tmp_path)
    assert "has no folder 'dev'" in refused(tmp_path, split="dev")
    csv_folder(tmp_path, "file_name,problem\na.png,How many?\n")
    assert "has no column 'solution' (it has file_name, problem)" in refused(tmp_path)
    csv_folder(tmp_path, "name,problem,answer\na.png,How many?,3\n")
    assert "has no column 'file_name'" in refused(tmp_path)
    csv_folder(tmp_path, 'file_name,problem,answer\na.png,"How many?,3\nb.png,How many?,4\n')
    assert "metadata.csv: not CSV (unexpected end of data)" in refused(tmp_path)
    (tmp_path / "metadata.csv").write_bytes("file_name,problem,answer\na.png,Größe,3\n".encode("latin-1"))
    assert "metadata.csv:2: not UTF-8" in refused(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("{}")
    assert "not 2" in refused(tmp_path)
