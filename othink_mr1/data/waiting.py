"""Pictures that wait on the disk until it is known which rows go where. Each process adds to a file of its own."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from othink_mr1.errors import UserError


class Place(NamedTuple):
    """Where a picture waits: a file's name, and the bytes of it, from `start` on."""

    file: str
    start: int
    length: int


@contextmanager
def waiting_room(folder: Path) -> Iterator[Path]:
    """A new folder for files of waiting pictures, gone at the end."""
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Arrivals:
    """Adds pictures to this process's file. What a process that died has left half-written there nobody asks for."""

    def __init__(self, folder: Path) -> None:
        self._name = str(os.getpid())
        self._file = (folder / self._name).open("ab")

    def add(self, picture: bytes) -> Place:
        start = self._file.tell()
        self._file.write(picture)
        return Place(self._name, start, len(picture))

    def close(self) -> None:
        self._file.close()


class Departures:
    """Gives the pictures that wait, from the files of all processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}

    def get(self, place: Place) -> bytes:
        """The whole picture.

        Raises:
            UserError: its file cannot be read, or ends before the picture does.
        """
        path = self._folder / place.file
        try:
            if place.file not in self._files:
                self._files[place.file] = path.open("rb", buffering=0)
            picture = _read(self._files[place.file], place)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror or error}); look at the disk, run it again"
            ) from None
        if len(picture) < place.length:
            raise UserError(
                f"{path}: of the picture at byte {place.start}, {len(picture)} of {place.length} bytes are there; "
                "look at the disk, run it again"
            )
        return picture

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _read(file: BinaryIO, place: Place) -> bytes:
    """Less than asked for only where the file ends. One read may give less before that."""
    file.seek(place.start)
    parts, left = [], place.length
    while left and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
