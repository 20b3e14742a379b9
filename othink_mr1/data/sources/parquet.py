"""Parquet files, one or several, with the pictures inside: as the Image feature of `datasets`, or as plain bytes."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from othink_mr1.data.checks import RawRow, printable
from othink_mr1.data.pictures import RowError
from othink_mr1.data.sources.base import Held, Job, Request, Source, our_columns, raw_row
from othink_mr1.digests import matching_files
from othink_mr1.errors import UserError

_ROWS = 32  # read at a time
_BUFFER = 2**20  # bytes; without one a whole column of a row group is read at once, pictures and all


def parquet(request: Request) -> Source:
    """The rows of a file, of the `.parquet` files of a folder, or of those that a pattern such as `train-*` names.

    Several files are read in the order of their names.

    Raises:
        UserError: there are none, one of them is no parquet file or lacks a column, or they hold no rows.
    """
    if request.path is None:
        raise UserError(f"{request.key}.path: it is not set; a parquet file, a folder or a pattern is needed")
    shards = [_Shard(request, path) for path in matching_files(request.path, ".parquet")]
    rows = sum(shard.rows for shard in shards)
    if not rows:
        raise UserError(f"{request.path}: holds no rows; {request.key} needs at least one")
    jobs = (job for shard in shards for job in shard.jobs(request.split))
    digest = request.settings.get("sha256")
    return Source("parquet", jobs, rows, digest=digest, identity=digest)


class _Shard:
    """One file: looked at when made, read when asked for its jobs."""

    def __init__(self, request: Request, path: Path) -> None:
        self._path = path
        try:
            with pq.ParquetFile(path) as file:
                self.rows = file.metadata.num_rows
                there = file.schema_arrow.names
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from None
        self._columns = our_columns(request, str(path), there)

    def jobs(self, split: str) -> Iterator[Job]:
        number = 0
        try:
            with pq.ParquetFile(self._path, buffer_size=_BUFFER) as file:
                for batch in file.iter_batches(_ROWS, columns=list(self._columns.values()), use_threads=False):
                    for row in batch.to_pylist():
                        values = {ours: row[theirs] for ours, theirs in self._columns.items()}
                        yield Held(_read_row(split, f"{printable(self._path.name)}:{number}", values))
                        number += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self._path}: cannot be read after row {number} ({why}); bring it again whole") from None


def _read_row(split: str, source: str, values: Mapping[str, Any]) -> RawRow:
    return raw_row(split, source, values, partial(_inside, values["image"]))


def _inside(picture: Any) -> bytes:
    encoded = picture.get("bytes") if isinstance(picture, dict) else picture
    if not isinstance(encoded, bytes):
        raise RowError("picture_missing", "its bytes are not in the file")
    return encoded
