"""A closer look at rows whose thumbnails agree: their pictures, from where they wait, held against each other."""

import io
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from othink_mr1.data.copies import same_drawing
from othink_mr1.data.parallel import Workers
from othink_mr1.data.waiting import Departures, Place


class Likeness(NamedTuple):
    """A picture, and those that it may be a copy of."""

    picture: Place
    others: list[Place]


class CloserLook:
    """Looks at pictures that wait in `waiting`, many at a time."""

    def __init__(self, waiting: Path, workers: Workers) -> None:
        self._first_copy = partial(_first_copy, waiting=waiting)
        self._workers = workers

    def first_copies(self, likenesses: Iterable[Likeness]) -> Iterator[int | None]:
        """For each the number of the first other that it is a copy of; None where it is of none."""
        return self._workers.map(self._first_copy, likenesses)


def _first_copy(likeness: Likeness, waiting: Path) -> int | None:
    with closing(Departures(waiting)) as pictures:
        one = _grey(pictures.get(likeness.picture))
        others = enumerate(likeness.others)
        return next((number for number, other in others if same_drawing(one, _grey(pictures.get(other)))), None)


def _grey(encoded: bytes) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as picture:
        return picture.convert("L")
