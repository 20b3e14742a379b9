"""The content of a source on this machine as one digest: where it lies and when it was copied do not count."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from othink_mr1.errors import UserError
from othink_mr1.stages import write_whole

# A file that changed so short ago may change again without a new time.
_SETTLED = 2 * 10**9


def jsonl_digest(path: Path) -> str:
    """sha256 over a jsonl file and the pictures that its rows name, in their order.

    A row that cannot be read, or a picture that is not there, is `prepare_data`'s to report: here it only counts as
    different from any other state.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    digest = hashlib.sha256(content)
    folder = path.parent.resolve()
    for name in _pictures(content):
        picture = _inside(folder, name)
        digest.update((_digest_or_absent(picture) if picture is not None else "absent").encode())
    return digest.hexdigest()


def folder_digest(path: Path) -> str:
    """sha256 over the names and contents of the files of a folder, its sub-folders included.

    Raises:
        UserError: there is no such folder, or it is empty.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
    if not files:
        raise UserError(f"{path} is no folder with files")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()}\0{_digest_or_absent(file)}\0".encode())
    return digest.hexdigest()


def files_digest(path: Path) -> str:
    """sha256 over the names and contents of the files that `matching_files` finds for a parquet source."""
    digest = hashlib.sha256()
    for file in matching_files(path, ".parquet"):
        digest.update(f"{file.name}\0{_digest_or_absent(file)}\0".encode())
    return digest.hexdigest()


def matching_files(path: Path, suffix: str) -> list[Path]:
    """The file itself, the files of a folder that end so, or those that a pattern such as `train-*` names; sorted.

    Raises:
        UserError: there are none.
    """
    if path.is_file():
        return [path]
    folder, pattern = (path, f"**/*{suffix}") if path.is_dir() else (path.parent, path.name)
    files = sorted(file for file in folder.glob(pattern) if file.is_file() and not file.name.startswith("."))
    if not files:
        raise UserError(f"{path} is no {suffix} file, nor a folder or a pattern that has some")
    return files


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def remembered(path: Path) -> Iterator[None]:
    """Within this block a file that has not changed since an earlier one is not read again.

    Args:
        path: where the digests are kept. A file is taken for unchanged while its size, its time and its inode are;
            `path` is written only when there is something new.
    """
    memo = _Memo(path)
    token = _memo.set(memo)
    try:
        yield
    finally:
        _memo.reset(token)
        memo.save()


class _Memo:
    """File → its size, time, inode and digest."""

    def __init__(self, path: Path) -> None:
        self._path, self._new = path, False
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        self._known: dict[str, Any] = found if isinstance(found, dict) else {}

    def digest(self, file: Path) -> str:
        stat = file.stat()
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(str(file))
        if isinstance(known, list) and known[:-1] == state:
            return str(known[-1])
        digest = file_digest(file)
        if time.time_ns() - stat.st_mtime_ns > _SETTLED:
            self._known[str(file)] = [*state, digest]
            self._new = True
        return digest

    def save(self) -> None:
        if self._new:
            kept = {name: state for name, state in self._known.items() if Path(name).exists()}
            write_whole(self._path, json.dumps(kept))


_memo: ContextVar[_Memo | None] = ContextVar("memo", default=None)


def _pictures(content: bytes) -> list[str]:
    pictures = []
    for line in content.split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        picture = _named(row) if isinstance(row, dict) else None
        if isinstance(picture, str):
            pictures.append(picture)
    return pictures


def _named(row: Mapping[str, Any]) -> Any:
    """The picture that `prepare_data` takes of a row: our own key goes before R1-V's."""
    return next((row[key] for key in ("image", "image_path") if row.get(key) is not None), None)


def _inside(folder: Path, name: str) -> Path | None:
    """The file of that name in the folder; None for what `prepare_data` refuses: one outside, or no plain file."""
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _digest_or_absent(path: Path) -> str:
    memo = _memo.get()
    try:
        return memo.digest(path.resolve()) if memo is not None else file_digest(path)
    except (OSError, ValueError):
        return "absent"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
