"""Rows that were put aside: why, and what they were."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from othink_mr1.errors import UserError

REASONS = "reasons.jsonl"
_EXAMPLES = 3
# A picture that was put aside may be anything: its first bytes say what to call it.
_ENDINGS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp", b"II*": "tif"}


def reasons(path: Path) -> list[dict[str, Any]]:
    """Split, reason, rows and the first examples (source, detail) of each reason, the commonest first.

    Raises:
        UserError: the file cannot be read.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _rows(path, ["split", "reason", "source", "detail"]):
        new = {"split": row["split"], "reason": row["reason"], "rows": 0, "examples": []}
        entry = found.setdefault((row["split"], row["reason"]), new)
        entry["rows"] += 1
        if len(entry["examples"]) < _EXAMPLES:
            entry["examples"].append({"source": row["source"], "detail": row["detail"]})
    return sorted(found.values(), key=lambda entry: (-entry["rows"], entry["split"], entry["reason"]))


def export(paths: Sequence[Path], folder: Path) -> int:
    """Write the rows of quarantine files into a new folder: `reasons.jsonl`, and each picture as its bytes came.

    Returns:
        How many rows there were.

    Raises:
        UserError: the folder is there and not empty, or a file cannot be read.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: it is there already and not an empty folder; name a new one")
    made = folder.with_name(f".{folder.name}.part")  # what is cut short does not look whole
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        number = 0
        with (made / REASONS).open("w", encoding="utf-8") as lines:
            for number, row in enumerate((row for path in paths for row in _rows(path)), 1):
                picture = (row.pop("image") or {}).get("bytes")
                row["picture"] = _write_picture(made, f"{number:06}-{row['reason']}", picture) if picture else None
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return number


def _write_picture(folder: Path, name: str, picture: bytes) -> str:
    ending = next((ending for start, ending in _ENDINGS.items() if picture.startswith(start)), "bin")
    (folder / f"{name}.{ending}").write_bytes(picture)
    return f"{name}.{ending}"


def _rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(256, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # Arrow raises OSError for a damaged page, too
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read ({why}); `othink run` makes it anew") from None
