"""What every source is asked and gives, and how a row's picture and columns are found."""

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from othink_mr1.data.checks import RawRow
from othink_mr1.data.pictures import MOST_PIXELS, RowError
from othink_mr1.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

Job = Callable[[], Iterable[RawRow]]  # reads a few rows; the same again when it is called again
ROWS = 16  # that a job reads at most
T = TypeVar("T")
TEXTS = ("problem", "solution", "answer", "thinking")
_MOST_BYTES = 4 * MOST_PIXELS  # of a picture's file: no picture that is accepted needs more
# Of a file that is not there or has a name no system allows: that row's own fault. Any other error is the disk's.
_ROWS_OWN = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}


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
    """`jobs`, in a fixed order; how many `rows` they read; `licence` and `digest` of the content, None if unknown.

    `identity`: two sources with the same one are the same data; None where only the rows can tell.
    `revision`: the commit of the hub that was read. `fetched`: Unix seconds when it came from there.
    `whole`: a published test set, of which no row may be left out.
    """

    name: str
    jobs: Iterator[Job]
    rows: int
    licence: str | None = None
    digest: str | None = None
    identity: str | None = None
    revision: str | None = None
    fetched: float | None = None
    whole: bool = False


def jobs_for(read: Callable[[T], RawRow], items: Iterable[T]) -> Iterator[Job]:
    """Jobs that read one row for each item."""
    left = iter(items)
    while some := list(islice(left, ROWS)):
        yield partial(map, read, some)


def whole_number(request: Request, name: str, least: int, default: int | None = None) -> int:
    """A setting that is a number of something.

    Raises:
        UserError: it is none, or too small.
    """
    value = request.settings.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{request.key}.{name}: {value!r} should be a whole number of at least {least}")
    return value


def our_columns(
    request: Request, what: str, there: Sequence[str], needed: Sequence[str] = ("image", "problem")
) -> dict[str, str]:
    """Our columns to the names that they have in a table.

    Args:
        what: the table, for messages.
        there: its columns.
        needed: ours that have to be there, beside those that the settings name; solution or answer always.

    Raises:
        UserError: one is not there.
    """
    chosen = dict(request.settings.get("columns") or {})
    wanted = {ours: chosen.get(ours, ours) for ours in ("image", *TEXTS)}
    found = {ours: theirs for ours, theirs in wanted.items() if theirs in there}
    missing = [ours for ours in (*needed, *chosen) if ours not in found]
    if not missing and not {"solution", "answer"} & set(found):
        missing = ["solution"]
    if missing:
        ours, names = missing[0], ", ".join(_on_one_line(name) for name in there)
        raise UserError(
            f"{request.key}: {what} has no column {wanted[ours]!r} (it has {names}); "
            f"say which is ours: {request.key}.columns={{{ours}: <its name>}}"
        )
    return found


def _on_one_line(name: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


@dataclass(frozen=True)
class Unreadable:
    """Stands for a value of a table that Python has none for: text that is no UTF-8, a time beyond the calendar."""

    why: str


def python_rows(table: "pa.Table | pa.RecordBatch") -> list[dict[str, Any]]:
    """The rows of a table, by column; single values may be `Unreadable`."""
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (ValueError, OverflowError):
        rows = [{name: _python_value(table[name][row]) for name in table.schema.names} for row in range(table.num_rows)]
    return rows


def _python_value(value: "pa.Scalar") -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError) as error:
        return Unreadable(str(error).splitlines()[0])


def raw_row(split: str, source: str, values: Mapping[str, Any], picture: Callable[[], bytes]) -> RawRow:
    """A row of our columns; `picture` gives the bytes, or raises RowError."""
    texts = {name: values.get(name) for name in TEXTS}
    for name, value in texts.items():
        if isinstance(value, Unreadable):
            readable = {name: None if isinstance(text, Unreadable) else text for name, text in texts.items()}
            return RawRow(split=split, source=source, failure=("value_unreadable", f"{name}: {value.why}"), **readable)
    try:
        return RawRow(split=split, source=source, picture=picture(), **texts)
    except RowError as why:
        return RawRow(split=split, source=source, failure=(why.reason, why.detail), **texts)


def picture_bytes(folder: Path, name: Any, inside: Collection[Path] | None = None) -> bytes:
    """The bytes of a picture inside `folder`; a name that leads out of it, by `..` or by a link, is refused.

    Args:
        folder: what a relative name is relative to.
        inside: folders without links in their paths, in one of which the picture has to lie; `folder` if None.

    Raises:
        RowError: the row's own fault.
        UserError: the disk gives errors.
    """
    if not isinstance(name, str) or not name.strip():
        raise RowError("picture_missing", "the row names none")
    shown = ascii(name)[:100]
    try:
        path = (folder / name).resolve()
        if not any(path.is_relative_to(place) for place in ([folder.resolve()] if inside is None else inside)):
            raise RowError("picture_outside", f"{shown} leads out of the folder of the data")
        if not path.is_file():
            raise RowError("picture_missing", f"no file {shown} beside the data file")
        if path.stat().st_size > _MOST_BYTES:
            raise RowError("picture_too_large", f"{shown} has {path.stat().st_size} bytes; at most {_MOST_BYTES}")
        return path.read_bytes()
    except (ValueError, RuntimeError) as error:  # a name no system allows, a loop of links
        raise RowError("picture_missing", f"{shown} cannot be read ({type(error).__name__})") from None
    except OSError as error:
        if error.errno not in _ROWS_OWN:
            raise UserError(f"{folder / name}: cannot be read ({error.strerror or error}); run it again") from None
        raise RowError("picture_missing", f"{shown} cannot be read ({error.strerror})") from None
