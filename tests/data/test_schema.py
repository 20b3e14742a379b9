"""Parquet files: the same bytes each time, and pictures for whoever reads them with `datasets`."""

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from makers import plain, png, write_rows, write_split

from othink_mr1.data.reading import read_split
from othink_mr1.data.schema import SCHEMA, ParquetSink
from othink_mr1.errors import UserError


def rows(count: int) -> list[dict[str, object]]:
    texts = ("sample_id", "task", "split", "source", "problem", "solution", "answer", "thinking")
    return [
        {**{name: f"{name} {number}" for name in texts}, "image": {"bytes": png(number), "path": None}}
        for number in range(count)
    ]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_rows(tmp_path / name, rows(600))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_are_written_in_groups_so_that_memory_does_not_grow(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "a.parquet", rows(600)) == 600
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [32] * 18 + [24]


def test_datasets_reads_pictures(tmp_path: Path) -> None:
    import datasets

    for split in ("train", "test"):
        write_split(tmp_path / "data", split, rows(3))
    loaded = datasets.load_dataset(str(tmp_path / "data"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded[2]["image"].getpixel((0, 0)) == plain(2).getpixel((0, 0))
    assert loaded[1]["problem"] == "problem 1"


def test_reading_a_split(tmp_path: Path) -> None:
    write_split(tmp_path, "validation", rows(5))
    samples = read_split(tmp_path, "validation")
    assert len(samples) == 5
    assert set(samples[0]) == {"sample_id", "task", "problem", "solution", "answer", "thinking", "image"}
    assert samples[-1]["answer"] == "answer 4"
    assert samples[3]["image"].mode == "RGB"
    assert samples[3]["image"].getpixel((5, 5)) == (3, 0, 77)
    assert [sample["answer"] for sample in samples] == samples.column("answer")
    assert [sample["answer"] for sample in samples[1:4:2]] == ["answer 1", "answer 3"]
    assert samples.column("image")[2].size == (40, 32)
    with pytest.raises(IndexError):
        samples[5]
    with pytest.raises(UserError, match="'colour'"):
        samples.column("colour")


def test_pictures_stay_on_the_disk_until_they_are_asked_for(tmp_path: Path) -> None:
    big = [{**one, "image": {"bytes": one["image"]["bytes"] + bytes(100_000), "path": None}} for one in rows(600)]
    write_split(tmp_path, "train", big)
    before = pa.total_allocated_bytes()
    samples = read_split(tmp_path, "train")
    assert [samples[number]["image"].getpixel((0, 0))[0] for number in range(0, 600, 70)] == [
        plain(number).getpixel((0, 0))[0] for number in range(0, 600, 70)
    ]
    assert pa.total_allocated_bytes() - before < 35_000_000  # of 60 MB
    elsewhere = pickle.loads(pickle.dumps(samples[3:5]))
    assert elsewhere[1]["answer"] == "answer 4"
    assert elsewhere[1]["image"].getpixel((0, 0)) == plain(4).getpixel((0, 0))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no parquet files"):
        read_split(tmp_path, "train")
    with pytest.raises(UserError, match="'dev' is not one of"):
        read_split(tmp_path, "dev")
    write_split(tmp_path, "train", rows(3)).write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"train/00000-of-00001\.parquet: not a parquet file"):
        read_split(tmp_path, "train")
    write_split(tmp_path, "validation", rows(3)).rename(tmp_path / "validation" / "00000-of-00002.parquet")
    with pytest.raises(UserError, match=r"validation: holds 1 parquet files, not all of those that were written"):
        read_split(tmp_path, "validation")
    narrow = SCHEMA.remove(SCHEMA.get_field_index("answer"))
    with ParquetSink(write_split(tmp_path, "test", []), narrow) as sink:
        sink.write({name: value for name, value in rows(1)[0].items() if name != "answer"})
    with pytest.raises(UserError, match="column 'answer' is missing"):
        read_split(tmp_path, "test")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_as_such() -> None:
    big = [{**one, "problem": "x" * 100_000, "image": {"bytes": bytes(100_000), "path": None}} for one in rows(40)]
    with pytest.raises(OSError, match="No space left"):
        write_rows(Path("/dev/full"), big)
