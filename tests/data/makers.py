"""Small pictures and files that the tests of the data share."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

import othink_mr1.data.prepare as preparing
from othink_mr1.data.prepare import Prepared
from othink_mr1.data.schema import SCHEMA, ParquetSink
from othink_mr1.data.shards import shard_files, shard_name


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(number: int = 0, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """A one-coloured picture; another number is another colour."""
    return Image.new("RGB", size, (number % 256, number // 256, 77))


def png(number: int = 0, size: tuple[int, int] = (40, 32)) -> bytes:
    return encoded(plain(number, size))


def drawing(label: str) -> Image.Image:
    """A triangle with a label too small for a thumbnail to show what it says."""
    picture = Image.new("RGB", (320, 240), "white")
    draw = ImageDraw.Draw(picture)
    draw.polygon([(20, 220), (300, 220), (160, 30)], outline="black")
    draw.text((50, 195), label, fill="black", font_size=20)
    return picture


def write_jsonl(folder: Path, rows: Iterable[Any], name: str = "rows.jsonl") -> Path:
    """Rows as lines (a text is written as it stands), and for each picture that is given as bytes a file."""
    lines = []
    for number, row in enumerate(rows):
        if isinstance(row, dict):
            row = dict(row)
            for key in ("image", "image_path"):
                if isinstance(row.get(key), bytes):
                    (folder / f"{Path(name).stem}-{number}.png").write_bytes(row[key])
                    row[key] = f"{Path(name).stem}-{number}.png"
        lines.append(row if isinstance(row, str) else json.dumps(row))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A good row in R1-V's keys, with a picture of its own."""
    good = {"image_path": png(number), "question": "How many items are there in the image?", "ground_truth": 3}
    return {**good, **changes}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Rows in the form of `SCHEMA` as a parquet file; how many there were."""
    with ParquetSink(path, SCHEMA) as sink:
        for one in rows:
            sink.write(one)
    return sink.rows


def write_split(folder: Path, split: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Rows as the only file of a split; its path."""
    path = folder / split / shard_name(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, rows)
    return path


def split_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a split, as they stand in its files."""
    return [row for path in shard_files(folder / split) for row in pq.read_table(path).to_pylist()]


def use_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few the rows and the cores are."""
    monkeypatch.setattr(preparing, "_FEW_ROWS", 1)
    monkeypatch.setattr(preparing, "cores", lambda: 3)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of each file of a folder and of those in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def balance(prepared: Prepared) -> None:
    """accepted + quarantined = read, in numbers."""
    for split, found in prepared.splits.items():
        own = found.rows if split != "validation" or found.source != "train" else 0
        assert found.read == own + found.drawn + found.not_sampled + sum(found.quarantined.values())
