"""A dataset of the Hugging Face hub, or a folder in the same form (parquet files, say, and a README.md).

It is fetched once, into the cache under HF_HOME, and read from there without a network afterwards. Rows need a picture,
a question and an answer, in the columns `image`, `problem`, and `solution` or `answer`; `thinking` is taken where it
is. Code that a dataset may bring is never run (`datasets` has no way to from version 4 on).
"""

import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1.data.checks import RawRow, printable
from othink_mr1.data.sources.base import ROWS, Job, Request, Source, our_columns, picture_bytes, python_rows, raw_row
from othink_mr1.errors import UserError

if TYPE_CHECKING:
    import datasets

_Look = Callable[[Any], bytes]  # from the name of a picture to its bytes
# The columns of the datasets that the paper's models and those of R1-V were trained on.
_COLUMNS = {
    "leonardPKU/clevr_cogen_a_train": ("image", "problem", "solution"),
    "MMInstruction/Clevr_CoGenT_TrainA_R1": ("image", "problem", "solution", "thinking"),
    "leonardPKU/GEOQA_R1V_Train_8K": ("image", "problem", "solution"),
}


def hub(request: Request) -> Source:
    """The rows of one split.

    Raises:
        UserError: it cannot be fetched or read, has no such split, or lacks a column.
    """
    settings, folder = request.settings, request.path
    if folder is None and not settings.get("name"):
        raise UserError(f"{request.key}.name: it is not set; the name of a dataset is needed, such as owner/name")
    name = str(settings["name"] if folder is None else folder.resolve())
    loaded = _load_dataset(request, name)
    needed = _COLUMNS.get(name, ("image", "problem"))
    columns = our_columns(request, f"the dataset {printable(name)}", loaded.column_names, needed)
    # A picture that lies beside the dataset's files: a row cannot name any other file of this machine.
    look = (
        partial(picture_bytes, Path("/"), inside=_fetched_folders())
        if folder is None
        else partial(picture_bytes, folder)
    )
    shown = str(printable(name if folder is None else folder.name))
    revision = _revision(loaded) if folder is None else None
    if folder is None and settings.get("revision") is None:
        _warn_unpinned(request, name, revision)
    return Source(
        "hub",
        _jobs(request, loaded, columns, look, shown),
        len(loaded),
        licence=loaded.info.license or None,
        digest=settings.get("sha256"),
        identity=f"{settings.get('sha256') or name}@{settings.get('revision')}:{settings.get('split')}",
        revision=revision,
        fetched=_fetched(loaded) if folder is None else None,
        whole=request.split == "test",
    )


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


def _jobs(
    request: Request, loaded: "datasets.Dataset", columns: Mapping[str, str], look: _Look, shown: str
) -> Iterator[Job]:
    # Names of files, no rows. Whoever reads some maps the files into memory for them alone: pages that were read count
    # as used for as long as the files are mapped.
    files = pickle.dumps(loaded.select_columns(list(columns.values())).with_format("arrow"))
    for start in range(0, len(loaded), ROWS):
        part = range(start, min(start + ROWS, len(loaded)))
        yield partial(_read_rows, request, files, part, dict(columns), look, shown)


def _read_rows(
    request: Request, files: bytes, part: range, columns: Mapping[str, str], look: _Look, shown: str
) -> list[RawRow]:
    try:
        table = pickle.loads(files)[part.start : part.stop]  # pickled by _jobs
        rows = python_rows(table)
    except (OSError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{request.key}: the dataset {shown} cannot be read after row {part.start} ({why})") from None
    ours = ({ours: row[theirs] for ours, theirs in columns.items()} for row in rows)
    return [_read_row(request.split, f"{shown}:{number}", look, row) for number, row in zip(part, ours, strict=True)]


def _read_row(split: str, source: str, look: _Look, values: Mapping[str, Any]) -> RawRow:
    picture = values["image"]
    if isinstance(picture, dict):
        picture = picture.get("bytes") or picture.get("path")
    if isinstance(picture, bytes):
        return raw_row(split, source, values, lambda: picture)
    return raw_row(split, source, values, partial(look, picture))


def _revision(loaded: "datasets.Dataset") -> str | None:
    """The commit that was fetched, as the addresses of its files have it."""
    commits = {address.partition("@")[2].partition("/")[0] for address in loaded.info.download_checksums or ()} - {""}
    return min(commits) if len(commits) == 1 else None


def _fetched(loaded: "datasets.Dataset") -> float | None:
    """When its files came into the cache, Unix seconds."""
    return max((Path(file["filename"]).stat().st_mtime for file in loaded.cache_files), default=None)


def _fetched_folders() -> list[Path]:
    """Where `datasets` puts files that it fetches: never all of HF_HOME, which holds the user's token as well."""
    import datasets
    from huggingface_hub import constants

    of_hub = Path(constants.HF_HUB_CACHE).glob("datasets--*")
    return [path.resolve() for path in (*of_hub, Path(datasets.config.DOWNLOADED_DATASETS_PATH))]


def _warn_unpinned(request: Request, name: str, revision: str | None) -> None:
    today = f" (today {revision})" if revision else ""
    print(
        f"{request.key}: warning: {printable(name)} without a revision is not reproducible: the hub may hold other "
        f"rows tomorrow; set {request.key}.revision to a commit{today}",
        file=sys.stderr,
    )
