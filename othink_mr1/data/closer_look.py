"""A closer look at rows whose thumbnails agree: their pictures, from where they wait, held against each other."""

import io
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from othink_mr1.data.copies import Close, close_size, closely, same_drawing
from othink_mr1.data.parallel import Workers
from othink_mr1.data.waiting import Departures, Place

_AT_HAND = 512  # pictures that a process keeps at the scale of the closer look, 0.2 MB each at most if not oblong


class Kept(NamedTuple):
    """A picture that waits, and its width and height in pixels."""

    place: Place
    size: tuple[int, int]


class Likeness(NamedTuple):
    """A picture, and those that it may be a copy of, the most alike first."""

    picture: Kept
    others: list[Kept]


class CloserLook:
    """Looks at pictures that wait in `waiting`, many at a time."""

    def __init__(self, waiting: Path, workers: Workers) -> None:
        self._first_copy = partial(_first_copy, waiting=waiting)
        self._workers = workers

    def first_copies(self, likenesses: Iterable[Likeness]) -> Iterator[int | None]:
        """For each the number of the first other that it is a copy of; None where it is of none."""
        return self._workers.map(self._first_copy, likenesses)


def _first_copy(likeness: Likeness, waiting: Path) -> int | None:
    for number, other in enumerate(likeness.others):
        size = close_size(likeness.picture.size, other.size)
        if same_drawing(_closely(waiting, likeness.picture, size), _closely(waiting, other, size)):
            return number
    return None


@lru_cache(_AT_HAND)
def _closely(waiting: Path, kept: Kept, size: tuple[int, int]) -> Close:
    with closing(Departures(waiting)) as pictures, Image.open(io.BytesIO(pictures.get(kept.place))) as picture:
        return closely(picture.convert("RGB"), size)
