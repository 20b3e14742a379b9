"""Parquet files, one or several, with the pictures inside: as the Image feature of `datasets`, or as plain bytes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from othink_mr1.data.checks import RawRow, printable
from othink_mr1.data.pictures import RowError
from othink_mr1.data.sources.base import ROWS, Job, Request, Source, our_columns, python_rows, raw_row
from othink_mr1.digests import matching_files
from othink_mr1.errors import UserError

_BUFFER = 2**20  # bytes; without one a whole column of a row group is read at once, pictures and all


def parquet(request: Request) -> Source:
    """The rows of a file, of the `.parquet` files of a folder, or of those that a pattern such as `train-*` names.

    Several files are read in the order of their names.

    Raises:
        UserError: there are none, one of them is no parquet file or lacks a column, or they hold no rows.
    """
    if request.path is None:
        raise UserError(f"{request.key}.path: it is not set; a parquet file, a folder or a pattern is needed")
    files = [_look(request, path) for path in matching_files(request.path, ".parquet")]
    rows = sum(sum(file.groups) for file in files)
    if not rows:
        raise UserError(f"{request.path}: holds no rows; {request.key} needs at least one")
    jobs = (job for file in files for job in _jobs(request.split, file))
    digest = request.settings.get("sha256")
    return Source("parquet", jobs, rows, digest=digest, identity=digest)


@dataclass(frozen=True)
class _File:
    """A file as it was when it was looked at. `groups`: the rows of each row group; `columns`: ours and its own."""

    path: Path
    state: tuple[int, ...]
    groups: tuple[int, ...]
    columns: tuple[tuple[str, str], ...]


def _look(request: Request, path: Path) -> _File:
    try:
        state = _state(path)
        with pq.ParquetFile(path) as file:
            groups = tuple(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
            there = file.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from None
    return _File(path, state, groups, tuple(our_columns(request, str(path), there).items()))


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _jobs(split: str, file: _File) -> Iterator[Job]:
    first = 0
    for group, rows in enumerate(file.groups):
        for start in range(0, rows, ROWS):
            yield partial(_read_batch, split, file, group, start // ROWS, first + start)
        first += rows


def _read_batch(split: str, file: _File, group: int, number: int, first: int) -> list[RawRow]:
    """The rows of a batch; `first` is the number of the first one in the file."""
    try:
        if _group(file, group).next_number > number:
            _group.cache_clear()
        batch = _group(file, group).batch(number)
    except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
        _group.cache_clear()
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file.path}: cannot be read after row {first} ({why}); bring it again whole") from None
    rows = []
    for place, row in enumerate(python_rows(batch), first):
        values = {ours: row[theirs] for ours, theirs in file.columns}
        rows.append(_read_row(split, f"{printable(file.path.name)}:{place}", values))
    return rows


class _Group:
    """The batches of a row group, which can be read forwards alone. It may be as large as the file."""

    def __init__(self, file: _File, group: int) -> None:
        if _state(file.path) != file.state:
            raise UserError(f"{file.path}: it changed while it was read; run it again")
        self.next_number = 0
        columns = [theirs for _, theirs in file.columns]
        opened = pq.ParquetFile(file.path, buffer_size=_BUFFER)
        self._batches = opened.iter_batches(ROWS, row_groups=[group], columns=columns, use_threads=False)

    def batch(self, number: int) -> pa.RecordBatch:
        while self.next_number <= number:
            batch = next(self._batches)
            self.next_number += 1
        return batch


# A process mostly gets a later batch of the group that it has open.
_group = lru_cache(maxsize=1)(_Group)


def _read_row(split: str, source: str, values: Mapping[str, Any]) -> RawRow:
    return raw_row(split, source, values, partial(_inside, values["image"]))


def _inside(picture: Any) -> bytes:
    encoded = picture.get("bytes") if isinstance(picture, dict) else picture
    if not isinstance(encoded, bytes):
        raise RowError("picture_missing", "its bytes are not in the file")
    return encoded
