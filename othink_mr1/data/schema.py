"""The one schema of every task, and parquet files whose bytes depend on nothing but their rows.

| column | type | what |
|---|---|---|
| sample_id | string | 32 hex digits out of the content, not the split: 16 of the pixels, 16 of task, question, answer |
| task | string | counting, geometry |
| split | string | train, validation, test |
| source | string | where the row came from: `synthetic:<index>`, or `<file name>:<number>` (see below) |
| image | struct<bytes, path> | encoded RGB picture, as the Image feature of `datasets` |
| problem | string | the question, without the prompt's request to think |
| solution | string | the answer as R1-V's data hold it: `<answer> 3 </answer>` |
| answer | string | the answer alone: `3`, `70°` |
| thinking | string | a worked way to the answer; may be empty |

The numbers in `source`: of lines from 1 in JSON lines, blank ones counted; of rows from 2 in CSV, where the heading is
1; of rows from 0 in parquet (each file by itself), in a dataset of the hub (`<dataset>:<number>`), and in `synthetic`.
A picture that no row of a folder's metadata names has its own name there, without a number.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "validation", "test")

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# What `datasets` writes into its own parquet files: with it, load_dataset("parquet") gives pictures.
_FEATURES = {"image": {"_type": "Image"}}
_TEXT_COLUMNS = ("sample_id", "task", "split", "source", "problem", "solution", "answer", "thinking")


def _schema(columns: list[tuple[str, pa.DataType]]) -> pa.Schema:
    features = {name: _FEATURES.get(name, {"dtype": str(kind), "_type": "Value"}) for name, kind in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}}, sort_keys=True)}
    return pa.schema([pa.field(name, kind) for name, kind in columns], metadata=metadata)


SCHEMA = _schema(
    [
        ("sample_id", pa.string()),
        ("task", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("image", _IMAGE),
        ("problem", pa.string()),
        ("solution", pa.string()),
        ("answer", pa.string()),
        ("thinking", pa.string()),
    ]
)

# A row that was not accepted: as much of it as could be read, and why it is here.
QUARANTINE_SCHEMA = _schema(
    [
        ("task", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("image", _IMAGE),
        ("problem", pa.string()),
        ("answer", pa.string()),
    ]
)

_ROWS_PER_GROUP = 32  # which training reads together, for one of their pictures
_BYTES_PER_GROUP = 4_000_000  # of pictures, after which a group ends with fewer rows
_ROWS_AT_ONCE = 16  # that pyarrow copies into a page before it looks at the page's size: about 1 MB of pictures
_PIECE = 2**18  # bytes; see _InPieces


def sample_id(task: str, pixels_sha256: str, problem: str, answer: str) -> str:
    """32 hex digits out of the content: the same on every machine and in every split.

    The first 16 name the picture, so that two versions of a dataset can be compared without reading any picture.
    """
    content = json.dumps([task, problem, answer], ensure_ascii=True)
    return pixels_sha256[:16] + hashlib.sha256(content.encode()).hexdigest()[:16]


def _column(rows: list[Mapping[str, Any]], field: pa.Field) -> pa.Array:
    """One column of the rows. (`Table.from_pylist` takes seven times as long for pictures.)"""
    values = [row[field.name] for row in rows]
    if field.type != _IMAGE:
        return pa.array(values, field.type)
    parts = [pa.array([picture[part.name] for picture in values], part.type) for part in _IMAGE]
    return pa.StructArray.from_arrays(parts, fields=list(_IMAGE))


class _InPieces:
    """A new file, to which pyarrow's pages go a piece at a time.

    A page holds the pictures of a whole row group. Written in one call, megabytes cost the kernel a multiple of it.
    """

    def __init__(self, path: Path) -> None:
        self.digest = hashlib.sha256()  # of what was written
        self._file = path.open("wb")
        self.close = self._file.close
        self.flush = self._file.flush

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            self.digest.update(piece)
            self._file.write(piece)
        return len(view)


class ParquetSink:
    """Writes rows to one parquet file, a row group at a time, so that memory does not grow with their number.

    The bytes are a function of the rows, the schema and the version of pyarrow: fixed compression, row groups that
    depend on the rows alone, no times. Pictures are stored as they are (they are compressed already), the text with
    zstd.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._waiting: list[Mapping[str, Any]] = []
        self._waiting_bytes = 0
        columns = [field.name for field in schema if field.name != "image"]
        self._file = _InPieces(path)
        self._writer = pq.ParquetWriter(
            self._file,
            schema,
            compression={**dict.fromkeys(columns, "zstd"), "image.bytes": "none", "image.path": "none"},
            compression_level=dict.fromkeys(columns, 3),
            use_dictionary=[name for name in ("task", "split", "reason") if name in columns],
            write_statistics=[name for name in columns if name in _TEXT_COLUMNS],
            write_batch_size=_ROWS_AT_ONCE,
            version="2.6",
        )

    def write(self, row: Mapping[str, Any]) -> None:
        self._waiting.append(row)
        self._waiting_bytes += len(row["image"]["bytes"] or b"")
        self.rows += 1
        if len(self._waiting) == _ROWS_PER_GROUP or self._waiting_bytes >= _BYTES_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            columns = [_column(self._waiting, field) for field in self._schema]
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
            self._waiting, self._waiting_bytes = [], 0

    def sha256(self) -> str:
        """The digest of the closed file."""
        return self._file.digest.hexdigest()

    def close(self) -> None:
        """Write what is left. Without it the file cannot be read."""
        self._flush()
        self._writer.close()
        self._file.close()

    def __enter__(self) -> "ParquetSink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        # The file is given up; a full disk must not hide behind a second failure to write.
        with suppress(Exception), closing(self._file):
            self._writer.close()
