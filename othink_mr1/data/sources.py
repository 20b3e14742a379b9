"""Where rows come from: one function a source, each giving jobs that read one row when they are called.

A job is a small picklable thing, so that a pool can run it; what it returns is unchecked (`checks.examine`).

Settings, as they stand under `data.<task>.<split>` of the resolved parameters:

| source | field | type | what |
|---|---|---|---|
| synthetic | size | int >= 1 | rows |
| | image_size | int, 48 to 1024, default 128 | side of the square pictures, pixels |
| jsonl | sha256 | text | digest of the file and its pictures, put in by `resolve`; the path is in `local.paths` |

`validation` may instead be `fraction` (above 0, below 1): drawn from train. Beside the splits stand `train_samples`
(null or int >= 1) and `checks` (see `expectations`).

A jsonl row holds the keys of R1-V or ours; pictures are named relative to the file.

| R1-V | ours |
|---|---|
| image_path | image |
| question | problem |
| ground_truth | answer or solution, and thinking if there is one |
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from othink_mr1.data.checks import RawRow, printable
from othink_mr1.data.pictures import MOST_PIXELS, RowError, encode
from othink_mr1.data.synthetic import counting, geometry
from othink_mr1.errors import UserError

Job = Callable[[], RawRow]
_SCENES = {"counting": counting.scene, "geometry": geometry.scene}
_LEAST_IMAGE_SIZE = 48
_MOST_BYTES = 4 * MOST_PIXELS  # of a picture's file: no picture that is accepted needs more


@dataclass(frozen=True)
class Request:
    """One split of one task, as the parameters ask for it. `path` is where a source on this machine lies."""

    task: str
    split: str
    settings: Mapping[str, Any]
    seed: int
    path: Path | None = None

    @property
    def key(self) -> str:
        """The key of the settings in params.yaml, for messages."""
        return f"data.{self.task}.{self.split}"


@dataclass(frozen=True)
class Source:
    """`jobs`, in a fixed order; `rows`, how many there are; `licence` and `digest` of the content, None if unknown."""

    name: str
    jobs: Iterator[Job]
    rows: int
    licence: str | None = None
    digest: str | None = None


def open_source(request: Request) -> Source:
    """The source that the settings name.

    Raises:
        UserError: no such source, a setting is missing or out of range, or its file is missing or not UTF-8.
    """
    name = request.settings.get("source")
    if name not in SOURCES:
        raise UserError(f"{request.key}.source: {name!r} cannot be read; there are {', '.join(SOURCES)}")
    return SOURCES[name](request)


def synthetic(request: Request) -> Source:
    """Pictures rendered by this project (`othink_mr1.data.synthetic`)."""
    size = _whole(request, "size", 1)
    image_size = _whole(request, "image_size", _LEAST_IMAGE_SIZE, default=128)
    if request.task not in _SCENES:
        raise UserError(f"{request.key}.source: no synthetic scenes of {request.task!r}; use another source")
    jobs = (partial(_render, request.task, request.split, request.seed, index, image_size) for index in range(size))
    return Source("synthetic", jobs, size, licence="Apache-2.0")


def _render(task: str, split: str, seed: int, index: int, image_size: int) -> RawRow:
    scene = _SCENES[task](seed, index, split, image_size)
    return RawRow(
        split=split,
        source=f"synthetic:{index}",
        picture=encode(scene["image"]),
        problem=scene["problem"],
        answer=scene["answer"],
        thinking=scene["thinking"],
    )


def jsonl(request: Request) -> Source:
    """A file with one JSON object a line (see the module for its keys)."""
    path = request.path
    if path is None or not path.is_file():
        raise UserError(f"{request.key}.path: {path} is no file; it should be a .jsonl file")
    numbered = _lines(path)
    if not numbered:
        raise UserError(f"{path}: holds no rows; {request.key} needs at least one")
    jobs = (partial(_read_line, request.split, path, number, line) for number, line in numbered)
    return Source("jsonl", jobs, len(numbered), digest=request.settings.get("sha256"))


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    # Not splitlines(): it splits at characters that may stand inside a JSON text, such as U+2028.
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _read_line(split: str, path: Path, number: int, line: str) -> RawRow:
    row = partial(RawRow, split=split, source=f"{printable(path.name)}:{number}")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return row(problem=line, failure=("line_not_json", str(error).splitlines()[0]))
    if not isinstance(values, dict):
        return row(problem=line, failure=("row_not_object", f"it is a {type(values).__name__}, not an object"))
    texts = {
        "problem": _first(values, "problem", "question"),
        "answer": _first(values, "answer", "ground_truth"),
        "solution": values.get("solution"),
        "thinking": values.get("thinking"),
    }
    try:
        return row(picture=_picture_bytes(path.parent, _first(values, "image", "image_path")), **texts)
    except RowError as why:
        return row(failure=(why.reason, why.detail), **texts)


def _first(values: Mapping[str, Any], *keys: str) -> Any:
    return next((values[key] for key in keys if values.get(key) is not None), None)


def _picture_bytes(folder: Path, name: Any) -> bytes:
    """The bytes of a picture inside `folder`; a name that leads out of it, by `..` or by a link, is refused."""
    if not isinstance(name, str) or not name.strip():
        raise RowError("picture_missing", "the row names none")
    shown = ascii(name)[:100]
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise RowError("picture_outside", f"{shown} leads out of the folder of the data file")
        if not path.is_file():
            raise RowError("picture_missing", f"no file {shown} beside the data file")
        if path.stat().st_size > _MOST_BYTES:
            raise RowError("picture_too_large", f"{shown} has {path.stat().st_size} bytes; at most {_MOST_BYTES}")
        return path.read_bytes()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # no leave to read it, a name no system allows, a loop of links
        why = getattr(error, "strerror", None) or type(error).__name__
        raise RowError("picture_missing", f"{shown} cannot be read ({why})") from None


def _whole(request: Request, name: str, least: int, default: int | None = None) -> int:
    value = request.settings.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{request.key}.{name}: {value!r} should be a whole number of at least {least}")
    return value


SOURCES: dict[str, Callable[[Request], Source]] = {"synthetic": synthetic, "jsonl": jsonl}
