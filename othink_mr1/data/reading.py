"""Reading a prepared split: text at once, pictures when they are asked for."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from othink_mr1.data.schema import SCHEMA, SPLITS
from othink_mr1.data.shards import shard_files
from othink_mr1.errors import UserError

_FIELDS = ("sample_id", "task", "problem", "solution", "answer", "thinking", "image")


class Samples(Sequence[dict[str, Any]]):
    """The rows of one split.

    `samples[i]` is a dict of sample_id, task, problem, solution, answer, thinking (text) and image (a PIL picture, RGB,
    decoded anew each time). Rows come in the order of the file.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Samples":
        if isinstance(index, slice):
            return Samples(self._table.take(list(range(*index.indices(len(self))))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a split with {len(self)} rows")
        index %= len(self)
        row: dict[str, Any] = {name: self._table[name][index].as_py() for name in _FIELDS}
        row["image"] = decode(row["image"]["bytes"])
        return row

    def column(self, name: str) -> list[Any]:
        """The values of one column for all rows; pictures as PIL pictures.

        Raises:
            UserError: there is no such column.
        """
        if name not in self._table.column_names:
            raise UserError(f"column {name!r} is not in the data; there are {', '.join(self._table.column_names)}")
        values: list[Any] = self._table[name].to_pylist()
        return [decode(value["bytes"]) for value in values] if name == "image" else values


def decode(encoded: bytes) -> Image.Image:
    """A picture of a prepared row, RGB."""
    with Image.open(io.BytesIO(encoded)) as picture:
        return picture.convert("RGB")


def read_split(folder: Path, split: str) -> Samples:
    """The rows of the parquet files in `<folder>/<split>/`, the files mapped into memory rather than read.

    Raises:
        UserError: a file is missing, is no parquet file or has other columns.
    """
    if split not in SPLITS:
        raise UserError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    return Samples(pa.concat_tables([_read(path) for path in shard_files(Path(folder) / split)]))


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from None
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; the file was not written by prepare_data")
    return table.select(SCHEMA.names)
