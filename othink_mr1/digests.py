"""The content of a source on this machine as one digest: where it lies and when it was copied do not count."""

import hashlib
import json
from pathlib import Path

from othink_mr1.errors import UserError


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
    for picture in _pictures(content):
        digest.update(_file_digest(path.parent / picture).encode())
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
        digest.update(f"{file.relative_to(path).as_posix()}\0{_file_digest(file)}\0".encode())
    return digest.hexdigest()


def _pictures(content: bytes) -> list[str]:
    pictures = []
    for line in content.split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        picture = (row.get("image") or row.get("image_path")) if isinstance(row, dict) else None
        if isinstance(picture, str):
            pictures.append(picture)
    return pictures


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return "absent"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
