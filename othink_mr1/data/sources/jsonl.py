"""A file with one JSON object a line; pictures are named relative to the file.

| R1-V's keys | ours |
|---|---|
| image_path | image |
| question | problem |
| ground_truth | answer or solution, and thinking if there is one |

R1-V's two test sets (200 Super-CLEVR and 754 GeoQA questions), on which the paper's figures rest, are such files. They
are known by their names, and no row of theirs may be left out.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from othink_mr1.data.checks import RawRow, printable
from othink_mr1.data.sources.base import Request, Source, jobs_for, picture_bytes, raw_row
from othink_mr1.errors import UserError

PUBLISHED = {"superclevr_test200_counting_problems.jsonl": 200, "geoqa_test_prompts.jsonl": 754}


def jsonl(request: Request) -> Source:
    """The rows of a file.

    Raises:
        UserError: no such file, it is empty or not UTF-8, or a published test set has lost rows.
    """
    path = request.path
    if path is None or not path.is_file():
        raise UserError(f"{request.key}.path: {path} is no file; it should be a .jsonl file")
    rows = sum(1 for _ in numbered_lines(path))
    if not rows:
        raise UserError(f"{path}: holds no rows; {request.key} needs at least one")
    published = PUBLISHED.get(path.name) if request.split == "test" else None
    if published not in (None, rows):
        raise UserError(
            f"{path}: has {rows} rows, R1-V's file of this name {published}; results count only on all of them: "
            f"bring the whole file, or give a part of it another name"
        )
    jobs = jobs_for(partial(_read_line, request.split, path), numbered_lines(path))
    digest = request.settings.get("sha256")
    return Source("jsonl", jobs, rows, digest=digest, identity=digest, whole=published is not None)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    return ((number, line) for number, line in enumerate(text_lines(path), 1) if line.strip())


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a file, read one at a time; errors as those of `numbered_lines`."""
    number = 0
    try:
        # In binary: text mode takes a lone carriage return, which may stand between JSON tokens, for the end of a line.
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8 (byte {error.start} of the line); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_line(split: str, path: Path, numbered: tuple[int, str]) -> RawRow:
    number, line = numbered
    source = f"{printable(path.name)}:{number}"
    unread = partial(RawRow, split=split, source=source, problem=line)
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return unread(failure=("line_not_json", str(error).splitlines()[0]))
    if not isinstance(values, dict):
        return unread(failure=("row_not_object", f"it is a {type(values).__name__}, not an object"))
    ours = {
        "problem": _first(values, "problem", "question"),
        "answer": _first(values, "answer", "ground_truth"),
        "solution": values.get("solution"),
        "thinking": values.get("thinking"),
    }
    return raw_row(split, source, ours, partial(picture_bytes, path.parent, _first(values, "image", "image_path")))


def _first(values: Mapping[str, Any], *keys: str) -> Any:
    return next((values[key] for key in keys if values.get(key) is not None), None)
