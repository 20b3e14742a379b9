"""A folder of pictures with metadata, as `datasets` defines it: `metadata.csv` or `metadata.jsonl` beside the pictures.

Each row of the metadata has `file_name`, relative to it, and our columns; the splits are sub-folders. Pictures that no
row names are rows without a question: they are put aside, too.
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from othink_mr1.data.checks import RawRow, printable
from othink_mr1.data.sources.base import Job, Request, Source, jobs_for, our_columns, picture_bytes, raw_row
from othink_mr1.data.sources.jsonl import numbered_lines, text_lines
from othink_mr1.errors import UserError

_METADATA = ("metadata.csv", "metadata.jsonl")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# As `datasets` takes them for one another.
_ALSO = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_MOST_FIELD = 2**20  # characters of a CSV field: a thinking text is longer than the 128 KiB that Python allows


def imagefolder(request: Request) -> Source:
    """The rows of a folder's metadata, then the pictures that it leaves out.

    Raises:
        UserError: no such folder, no metadata or two of them, a column is missing, or there are no rows.
    """
    path = request.path
    if path is None or not path.is_dir():
        raise UserError(f"{request.key}.path: {path} is no folder; it should hold pictures and a metadata.csv")
    folder = _folder(request, path)
    there = [folder / name for name in _METADATA if (folder / name).is_file()]
    if len(there) != 1:
        raise UserError(f"{folder}: should hold one of {' and '.join(_METADATA)}, not {len(there)}")
    metadata = there[0]
    seen = _Seen(metadata)
    if not seen.rows:
        raise UserError(f"{metadata}: holds no rows; {request.key} needs at least one")
    columns = _columns(request, metadata, seen.columns)
    left_over = seen.left_over(columns["image"])
    jobs: Iterator[Job] = chain(
        jobs_for(partial(_read_row, request.split, metadata, columns), _rows(metadata)),
        jobs_for(partial(_read_left_over, request.split, folder), left_over),
    )
    digest = request.settings.get("sha256")
    identity = digest and f"{digest}:{folder.relative_to(path)}"
    return Source("imagefolder", jobs, seen.rows + len(left_over), digest=digest, identity=identity)


class _Seen:
    """What one look through the metadata finds: how many rows, and every column that one of them has."""

    def __init__(self, metadata: Path) -> None:
        self._metadata, self.rows = metadata, 0
        columns: dict[str, None] = {}
        for _, row in _rows(metadata):
            self.rows += 1
            columns |= dict.fromkeys(row if isinstance(row, dict) else ())
        self.columns = [name for name in columns if name is not None]  # None: see _read_row

    def left_over(self, image: str) -> list[str]:
        """The pictures of the folder that no row names. Names alone grow with the rows here, no pictures."""
        named = {os.path.normpath(str(row.get(image))) for _, row in _rows(self._metadata) if isinstance(row, dict)}
        folder = self._metadata.parent
        pictures = (path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES and path.is_file())
        return sorted(name for path in pictures if (name := path.relative_to(folder).as_posix()) not in named)


def _folder(request: Request, path: Path) -> Path:
    named = request.settings.get("split")
    if named is not None:
        if not (path / named).is_dir():
            raise UserError(f"{request.key}.split: {path} has no folder {named!r}")
        return path / named
    names = _ALSO.get(request.split, (request.split,))
    return next((path / name for name in names if (path / name).is_dir()), path)


def _columns(request: Request, metadata: Path, there: list[str]) -> dict[str, str]:
    """Our columns to those of the metadata; the picture's is `file_name` (or `image_file_name`) if not chosen."""
    chosen = dict(request.settings.get("columns") or {})
    chosen.setdefault("image", "image_file_name" if "image_file_name" in there else "file_name")
    return our_columns(replace(request, settings={**request.settings, "columns": chosen}), str(metadata), there)


def _rows(metadata: Path) -> Iterator[tuple[int, Any]]:
    """The rows with their numbers (of the line; in a CSV file of the row, the heading is 1); what is no row as text."""
    if metadata.suffix == ".jsonl":
        for number, line in numbered_lines(metadata):
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, line
        return
    csv.field_size_limit(_MOST_FIELD)
    try:
        # Strict: a quote that is never closed would swallow all rows after it.
        yield from enumerate(csv.DictReader(text_lines(metadata), strict=True), 2)
    except csv.Error as error:
        raise UserError(f"{metadata}: not CSV ({error})") from None


def _read_row(split: str, metadata: Path, columns: Mapping[str, str], numbered: tuple[int, Any]) -> RawRow:
    number, row = numbered
    source = f"{printable(metadata.name)}:{number}"
    if not isinstance(row, dict):
        reason = "line_not_json" if isinstance(row, str) else "row_not_object"
        return RawRow(split=split, source=source, problem=row, failure=(reason, "it should be a JSON object"))
    if None in row:  # what csv.DictReader makes of more fields than the heading has
        return RawRow(split=split, source=source, failure=("row_not_csv", "it has more fields than the heading"))
    values = {ours: row.get(theirs) for ours, theirs in columns.items()}
    return raw_row(split, source, values, partial(picture_bytes, metadata.parent, values["image"]))


def _read_left_over(split: str, folder: Path, name: str) -> RawRow:
    row = raw_row(split, printable(name) or "", {}, partial(picture_bytes, folder, name))
    return replace(row, failure=("not_in_metadata", "no row names this picture"))
