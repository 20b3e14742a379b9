"""Parquet files with the pictures inside."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from makers import plain, png

from othink_mr1.data.checks import RawRow
from othink_mr1.data.sources import Request, Source, open_source
from othink_mr1.digests import files_digest
from othink_mr1.errors import UserError


def opened(path: Path | None, **settings: Any) -> Source:
    return open_source(Request("counting", "train", {"source": "parquet", "sha256": "abc", **settings}, 0, path))


def read(path: Path, **settings: Any) -> list[RawRow]:
    source = opened(path, **settings)
    rows = [row for job in source.jobs for row in job()]
    assert len(rows) == source.rows
    return rows


def shard(path: Path, numbers: range, **changes: Any) -> Path:
    """Pictures as plain bytes, answers as numbers."""
    values = {"image": [png(n) for n in numbers], "problem": ["How many?"] * len(numbers), "answer": list(numbers)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**values, **changes}), path, row_group_size=7)
    return path


def test_a_file_as_datasets_writes_it(tmp_path: Path) -> None:
    values = {
        "image": [plain(n) for n in range(3)],
        "problem": ["How many?"] * 3,
        "solution": ["<answer> 3 </answer>"] * 3,
    }
    kinds = {"image": datasets.Image(), "problem": datasets.Value("string"), "solution": datasets.Value("string")}
    path = tmp_path / "train.parquet"
    datasets.Dataset.from_dict(values, features=datasets.Features(kinds)).to_parquet(str(path))
    rows = read(path)
    assert [row.picture for row in rows] == [png(n) for n in range(3)]
    assert [row.source for row in rows] == [f"train.parquet:{n}" for n in range(3)]
    assert rows[0].solution == "<answer> 3 </answer>"


def test_shards_in_a_folder_or_by_a_pattern_are_read_by_their_names(tmp_path: Path) -> None:
    for name, numbers in (("b/train-1", range(50, 60)), ("b/train-0", range(50)), ("b/test-0", range(60, 61))):
        shard(tmp_path / f"{name}.parquet", numbers)
    (tmp_path / "b" / "README.md").write_text("no rows")
    assert [row.answer for row in read(tmp_path)] == [60, *range(60)]
    assert [row.answer for row in read(tmp_path / "b" / "train-*")] == list(range(60))
    assert read(tmp_path / "b" / "train-*")[50].source == "train-1.parquet:0"


def test_columns_of_other_names(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"img": [png(4)], "query": ["How many?"], "label": [7], "other": [1.5]}), path)
    (row,) = read(path, columns={"image": "img", "problem": "query", "answer": "label"})
    assert (row.picture, row.problem, row.answer) == (png(4), "How many?", 7)


def test_a_row_without_bytes_is_its_own_fault(tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(png())
    images = [{"bytes": None, "path": "there.png"}, {"bytes": png(1), "path": None}, None]
    rows = read(shard(tmp_path / "a.parquet", range(3), image=images))
    assert [row.failure and row.failure[0] for row in rows] == ["picture_missing", None, "picture_missing"]


def test_a_value_that_python_cannot_hold_is_the_fault_of_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"How many?", b"q\xff", b"How many?"]).view(pa.string())
    times = pa.array([0, 0, 2**53], pa.timestamp("ms"))
    rows = read(shard(tmp_path / "a.parquet", range(3), problem=texts, answer=times))
    assert [row.failure and row.failure[0] for row in rows] == [None, "value_unreadable", "value_unreadable"]
    assert (rows[1].problem, rows[1].answer.year) == (None, 1970)
    assert rows[1].failure
    assert rows[1].failure[1].startswith("problem: 'utf-8' codec can't decode byte 0xff")
    assert rows[2].failure
    assert rows[2].failure[1].startswith("answer: ")


def refused(path: Path | None, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        [row for job in opened(path, **settings).jobs for row in job()]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    assert "no .parquet file, nor a folder or a pattern" in refused(tmp_path / "absent-*")
    assert "no .parquet file" in refused(tmp_path)
    assert "data.counting.train.path: it is not set" in refused(None)
    (tmp_path / "text.parquet").write_text("no parquet")
    assert "text.parquet: not a parquet file" in refused(tmp_path / "text.parquet")
    assert "holds no rows" in refused(shard(tmp_path / "empty.parquet", range(0), image=pa.array([], pa.binary())))
    path = tmp_path / "short.parquet"
    pq.write_table(pa.table({"image": [png()], "problem": ["How many?"]}), path)
    assert "has no column 'solution' (it has image, problem)" in refused(path)
    assert "has no column 'query'" in refused(path, columns={"problem": "query"})


def test_a_file_that_breaks_off_in_the_middle_names_the_row(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.parquet", range(600))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 - 200 : len(content) // 2] = bytes(200)  # the foot stays whole, so that it opens
    path.write_bytes(content)
    assert opened(path).rows == 600
    assert "a.parquet: cannot be read after row " in refused(path)


def test_the_digest_is_of_the_files_that_are_read(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.parquet", range(3))
    before = files_digest(tmp_path / "train-*")
    shard(tmp_path / "test-0.parquet", range(3))
    assert files_digest(tmp_path / "train-*") == before
    assert files_digest(tmp_path) != before
    shard(tmp_path / "train-0.parquet", range(4))
    assert files_digest(tmp_path / "train-*") != before
    with pytest.raises(UserError, match=r"absent is no \.parquet file"):
        files_digest(tmp_path / "absent")
