"""Where rows come from: one function a source, each giving jobs that read one row when they are called.

A job is a small picklable thing, so that a pool can run it; what it returns is unchecked (`checks.examine`).

Settings, as they stand under `data.<task>.<split>` of the resolved parameters:

| source | field | type | what |
|---|---|---|---|
| synthetic | rows | int >= 1 | |
| | image_size | int, 48 to 1024, default 128 | side of the square pictures, pixels |
| jsonl | sha256 | text | digest of the file and its pictures, put in by `resolve`; the path is in `local.paths` |
| hub | name | text | a dataset of the hub; a folder in the form of one has sha256 and a path, as jsonl |
| | split | text, default train | |
| | revision | text or null | a commit, branch or tag; null is what the hub has on that day |
| | columns | mapping | the dataset's own names of our columns, where they differ (see `hub`) |

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
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1.data.checks import RawRow, printable
from othink_mr1.data.pictures import MOST_PIXELS, RowError, encode
from othink_mr1.data.synthetic import counting, geometry
from othink_mr1.errors import UserError

if TYPE_CHECKING:
    import datasets

Job = Callable[[], RawRow]
_SCENES = {"counting": counting.scene, "geometry": geometry.scene}
_LEAST_IMAGE_SIZE = 48
# The columns of the datasets that the paper's models and those of R1-V were trained on.
_HUB_COLUMNS = {
    "leonardPKU/clevr_cogen_a_train": ("image", "problem", "solution"),
    "MMInstruction/Clevr_CoGenT_TrainA_R1": ("image", "problem", "solution", "thinking"),
    "leonardPKU/GEOQA_R1V_Train_8K": ("image", "problem", "solution"),
}
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
    """`jobs`, in a fixed order; `rows`, how many there are; `licence` and `digest` of the content, None if unknown.

    `identity`: two sources with the same one are the same data; None where only the rows can tell.
    """

    name: str
    jobs: Iterator[Job]
    rows: int
    licence: str | None = None
    digest: str | None = None
    identity: str | None = None


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
    rows = _whole(request, "rows", 1)
    image_size = _whole(request, "image_size", _LEAST_IMAGE_SIZE, default=128)
    if request.task not in _SCENES:
        raise UserError(f"{request.key}.source: no synthetic scenes of {request.task!r}; use another source")
    jobs = (partial(_render, request.task, request.split, request.seed, index, image_size) for index in range(rows))
    return Source("synthetic", jobs, rows, licence="Apache-2.0")


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
    digest = request.settings.get("sha256")
    return Source("jsonl", jobs, len(numbered), digest=digest, identity=digest)


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    try:
        # Not read_text(): it takes a lone carriage return, which may stand between JSON tokens, for the end of a line.
        text = path.read_bytes().decode("utf-8-sig")
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


def hub(request: Request) -> Source:
    """A dataset of the Hugging Face hub, or a folder in the same form (parquet files, say, and a README.md).

    It is fetched once, into the cache under HF_HOME, and read from there without a network afterwards. Rows need a
    picture, a question and an answer, in the columns `image`, `problem`, and `solution` or `answer`; `thinking` is
    taken where it is. Code that a dataset may bring is never run (`datasets` has no way to from version 4 on).

    Raises:
        UserError: it cannot be fetched or read, has no such split, or lacks a column.
    """
    settings, folder = request.settings, request.path
    if folder is None and not settings.get("name"):
        raise UserError(f"{request.key}.name: it is not set; the name of a dataset is needed, such as owner/name")
    name = str(settings["name"] if folder is None else folder.resolve())
    loaded = _load_dataset(request, name)
    columns = _columns(request, name, loaded.column_names)
    inside = _cache() if folder is None else folder
    shown = printable(name if folder is None else folder.name)
    jobs = (
        partial(
            _read_hub_row, request.split, f"{shown}:{number}", inside, {ours: row[of] for ours, of in columns.items()}
        )
        for number, row in enumerate(loaded)
    )
    if folder is None and settings.get("revision") is None:
        _warn_unpinned(request, name, loaded)
    identity = f"{settings.get('sha256') or name}@{settings.get('revision')}:{settings.get('split')}"
    return Source("hub", jobs, len(loaded), loaded.info.license or None, settings.get("sha256"), identity)


def _load_dataset(request: Request, name: str) -> "datasets.Dataset":
    """The split as it lies in the cache, its pictures not decoded."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets  # seconds, for those alone who need it

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(
            name, split=request.settings.get("split", "train"), revision=request.settings.get("revision")
        )
    except Exception as error:  # network, disk, rights, broken files: whatever it is, the dataset cannot be had
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{request.key}: the dataset {printable(name)} cannot be loaded ({why}); without a network it has to be in "
            f"the cache of the Hugging Face hub (HF_HOME), or give a file: source: jsonl, path: ..."
        ) from None
    if not len(loaded):
        raise UserError(f"{request.key}: the dataset {printable(name)} holds no rows; at least one is needed")
    pictures = [column for column, kind in loaded.features.items() if isinstance(kind, datasets.Image)]
    for column in pictures:
        loaded = loaded.cast_column(column, datasets.Image(decode=False))
    return loaded


def _columns(request: Request, name: str, there: list[str]) -> dict[str, str]:
    """Our columns to the dataset's."""
    chosen = dict(request.settings.get("columns") or {})
    wanted = {ours: chosen.get(ours, ours) for ours in ("image", "problem", "solution", "answer", "thinking")}
    found = {ours: of for ours, of in wanted.items() if of in there}
    needed = [*_HUB_COLUMNS.get(name, ("image", "problem")), *chosen]
    missing = [ours for ours in needed if ours not in found]
    if not missing and not {"solution", "answer"} & set(found):
        missing = ["solution"]
    if missing:
        ours = missing[0]
        raise UserError(
            f"{request.key}: the dataset {printable(name)} has no column {wanted[ours]!r} (it has {', '.join(there)}); "
            f"say which is ours: {request.key}.columns={{{ours}: <its name>}}"
        )
    return found


def _read_hub_row(split: str, source: str, inside: Path, values: Mapping[str, Any]) -> RawRow:
    texts: dict[str, Any] = {name: values.get(name) for name in ("problem", "answer", "solution", "thinking")}
    row = partial(RawRow, split=split, source=source, **texts)
    picture = values["image"]
    if isinstance(picture, dict):
        picture = picture.get("bytes") or picture.get("path")
    try:
        # A picture that lies beside the dataset's files: a row cannot name any other file of this machine.
        return row(picture=picture if isinstance(picture, bytes) else _picture_bytes(inside, picture))
    except RowError as why:
        return row(failure=(why.reason, why.detail))


def _cache() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME)


def _warn_unpinned(request: Request, name: str, loaded: "datasets.Dataset") -> None:
    commits = {address.partition("@")[2].partition("/")[0] for address in loaded.info.download_checksums or ()} - {""}
    today = f" (today {min(commits)})" if len(commits) == 1 else ""
    print(
        f"{request.key}: warning: {printable(name)} without a revision is not reproducible: the hub may hold other "
        f"rows tomorrow; set {request.key}.revision to a commit{today}",
        file=sys.stderr,
    )


def _whole(request: Request, name: str, least: int, default: int | None = None) -> int:
    value = request.settings.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{request.key}.{name}: {value!r} should be a whole number of at least {least}")
    return value


SOURCES: dict[str, Callable[[Request], Source]] = {"synthetic": synthetic, "jsonl": jsonl, "hub": hub}
