"""Reading a prepared split: text at once, pictures when they are asked for."""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from othink_mr1.data.schema import SCHEMA, SPLITS
from othink_mr1.data.shards import shard_files
from othink_mr1.errors import UserError

_TEXTS = ("sample_id", "task", "problem", "solution", "answer", "thinking")
_GROUPS_AT_HAND = 4  # row groups whose pictures stay in memory, still encoded: at most 4 MB each


class Samples(Sequence[dict[str, Any]]):
    """The rows of one split.

    `samples[i]` is a dict of sample_id, task, problem, solution, answer, thinking (text) and image (a PIL picture, RGB,
    read and decoded anew each time). Rows come in the order of the files. Only their text is kept in memory.
    """

    def __init__(self, texts: pa.Table, pictures: "Pictures", rows: Sequence[int]) -> None:
        self._texts = texts
        self._pictures = pictures
        self._rows = rows  # of the split, those that these are

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Samples":
        if isinstance(index, slice):
            return Samples(self._texts, self._pictures, self._rows[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a split with {len(self)} rows")
        place = self._rows[index]
        row: dict[str, Any] = {name: self._texts[name][place].as_py() for name in _TEXTS}
        row["image"] = decode(self._pictures[place])
        return row

    def column(self, name: str) -> list[Any]:
        """The values of one column for all rows; pictures as PIL pictures.

        Raises:
            UserError: there is no such column.
        """
        if name == "image":
            return [decode(self._pictures[place]) for place in self._rows]
        if name not in self._texts.column_names:
            there = ", ".join([*self._texts.column_names, "image"])
            raise UserError(f"column {name!r} is not in the data; there are {there}")
        values: list[Any] = self._texts[name].take(list(self._rows)).to_pylist()
        return values


class Pictures:
    """The encoded pictures of some parquet files, a row group of them read when one of its pictures is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        files = [_opened(path) for path in paths]
        self._groups = [(file, group) for file in files for group in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._ends = np.cumsum(sizes)
        self._read = lru_cache(_GROUPS_AT_HAND)(self._read_group)

    def __reduce__(self) -> tuple[Any, ...]:
        return Pictures, (self._paths,)  # another process opens the files itself

    def __getitem__(self, row: int) -> bytes:
        group = int(np.searchsorted(self._ends, row, "right"))
        start = int(self._ends[group - 1]) if group else 0
        picture: bytes = self._read(group)[row - start].as_py()
        return picture

    def _read_group(self, number: int) -> pa.ChunkedArray:
        file, group = self._groups[number]
        column = file.read_row_group(group, columns=["image.bytes"], use_threads=False)["image"]
        return column.combine_chunks().field("bytes")


def decode(encoded: bytes) -> Image.Image:
    """A picture of a prepared row, RGB."""
    with Image.open(io.BytesIO(encoded)) as picture:
        return picture.convert("RGB")


def read_split(folder: Path, split: str) -> Samples:
    """The rows of the parquet files in `<folder>/<split>/`.

    Raises:
        UserError: a file is missing, is no parquet file or has other columns.
    """
    if split not in SPLITS:
        raise UserError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    paths = shard_files(Path(folder) / split)
    names = [name for name in SCHEMA.names if name != "image"]
    texts = pa.concat_tables([_opened(path).read(columns=names) for path in paths]).combine_chunks()
    return Samples(texts, Pictures(paths), range(len(texts)))


def _opened(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from None
    missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; the file was not written by prepare_data")
    return file
