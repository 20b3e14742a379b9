"""Pictures that are copies of each other although their bytes and pixels differ: re-encoded, or scaled.

A picture is known by its thumbnail, 48 x 48 levels of grey. A perceptual hash of it (the signs of its 63 lowest DCT
coefficients, after pHash) names the candidates; alone it would call many scenes on one background the same. So the
thumbnails of each candidate are compared level by level: they have to rise and fall together, and nowhere may 2 x 2
neighbours differ much, for encoding and scaling change every part a little, another scene some part a lot. Where one of
the two pictures is small it has no 48 x 48 levels of its own: then they are compared at 24 x 24, and where it is
smaller than the thumbnail more may differ.

What it finds and what not, in figures: docs/data.md. Two limits: a copy of a drawing made by leaving out every other
pixel, without averaging, is mostly missed; and drawings that differ in less than the thumbnail shows, such as a thin
line's width, count as copies.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 48
_MOST_BITS = 20
_LEAST_CONTRAST = 1.5  # standard deviation: a picture of one colour has no shape to know it by
_SMALL = 2 * SIDE  # pixels of the shorter side: from there on each level is a mean of 2 x 2 pixels or more
# How much 2 x 2 neighbours may differ, and how well all levels have to agree. Less at 24 x 24, where each level is the
# mean of more pixels; more where one of the two has fewer pixels than the thumbnail levels.
_MOST_LEVELS, _LEAST_CORRELATION = 20.0, 0.975
_MOST_LEVELS_SMALL = 14.0
_MOST_LEVELS_TINY, _LEAST_CORRELATION_TINY = 27.0, 0.9
_COARSE = 6  # levels to a side that pairs are compared by first
_PAIRS = 512  # compared at a time: 512 x 2304 levels, some 5 MB as floats


@dataclass(frozen=True)
class Pictures:
    """What is known of n pictures."""

    thumbnails: NDArray[np.uint8]  # (n, SIDE * SIDE)
    sides: NDArray[np.int32]  # (n,), the shorter one, pixels
    signs: NDArray[np.float32]  # (n, 63), the hash as 1 and -1: a product of two counts the bits that they share
    coarse: NDArray[np.float32]  # (n, 6 * 6), the thumbnails at 6 x 6


def thumbnail(picture: Image.Image) -> bytes:
    """The grey levels of an RGB picture at 48 x 48, row by row: 2304 bytes."""
    return picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0).tobytes()


def known_by(thumbnails: NDArray[np.uint8], sides: NDArray[np.int32]) -> Pictures:
    """What is known of pictures with these thumbnails, (n, SIDE * SIDE), and shorter sides, (n,)."""
    both = len(_TRANSFORM)
    levels = thumbnails.reshape(-1, SIDE).astype(np.float32)
    across = (levels @ _TRANSFORM.T).reshape(-1, SIDE, both).transpose(0, 2, 1)
    down = (across.reshape(-1, SIDE) @ _TRANSFORM.T).reshape(-1, both, both)
    coefficients = down[:, :8, :8].reshape(-1, 64)[:, 1:]  # the first is the mean
    above = coefficients > np.partition(coefficients, 31, axis=1)[:, 31:32]  # the median
    signs = np.where(above, np.float32(1), np.float32(-1))
    coarse = down[:, 8:, 8:].reshape(-1, _COARSE**2).astype(np.float32, copy=False)
    return Pictures(thumbnails, sides, signs, coarse)


def near_copies(rows: Pictures, others: Pictures) -> dict[int, int]:
    """The rows that are copies of some other, each with the first that it is a copy of."""
    candidates = np.argwhere(rows.signs @ others.signs.T >= 63 - 2 * _MOST_BITS)
    found: dict[int, int] = {}
    for start in range(0, len(candidates), _PAIRS):
        pairs = candidates[start : start + _PAIRS]
        # What agrees in 2 x 2 neighbours agrees in the mean of larger blocks, and those are few.
        apart = np.abs(rows.coarse[pairs[:, 0]] - others.coarse[pairs[:, 1]]).max(axis=1)
        pairs = pairs[apart <= _MOST_LEVELS_TINY]
        copies = pairs[_alike(rows, pairs[:, 0], others, pairs[:, 1])]
        for row, first in zip(*np.unique(copies[:, 0], return_index=True), strict=True):
            found.setdefault(int(row), int(copies[first, 1]))
    return found


def _transform() -> NDArray[np.float32]:
    """The first 8 rows of the DCT-II, not normalised, and the means over a sixth of the side: (14, SIDE)."""
    cosines = np.cos(np.arange(8)[:, None] * (np.arange(SIDE) + 0.5) * (np.pi / SIDE))
    means = np.repeat(np.eye(_COARSE), SIDE // _COARSE, axis=1) * (_COARSE / SIDE)
    return np.concatenate([cosines, means]).astype(np.float32)


_TRANSFORM = _transform()


def _alike(
    rows: Pictures, which: NDArray[np.intp], others: Pictures, which_others: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Whether the thumbnails of each pair agree, (n,)."""
    a, b = (
        pictures.thumbnails[chosen].reshape(-1, SIDE, SIDE).astype(np.float32)
        for pictures, chosen in ((rows, which), (others, which_others))
    )
    sides = np.minimum(rows.sides[which], others.sides[which_others])
    small, tiny = sides < _SMALL, sides < SIDE
    most = np.select([tiny, small], [_MOST_LEVELS_TINY, _MOST_LEVELS_SMALL], _MOST_LEVELS)
    least = np.where(tiny, _LEAST_CORRELATION_TINY, _LEAST_CORRELATION)
    agree = np.empty(len(a), dtype=np.bool_)
    agree[~small] = _agree(a[~small], b[~small], most[~small], least[~small])
    agree[small] = _agree(_halved(a[small]), _halved(b[small]), most[small], least[small])
    return agree


def _halved(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The means of 2 x 2 levels, (n, SIDE / 2, SIDE / 2)."""
    halved: NDArray[np.float32] = levels.reshape(-1, SIDE // 2, 2, SIDE // 2, 2).mean(axis=(2, 4), dtype=np.float32)
    return halved


def _agree(
    a: NDArray[np.float32], b: NDArray[np.float32], most: NDArray[Any], least: NDArray[Any]
) -> NDArray[np.bool_]:
    """Whether no 2 x 2 neighbours are more than `most` levels apart, and the correlation is `least` or more."""
    apart = np.abs(a - b)
    blocks = (apart[:, 1:, 1:] + apart[:, :-1, 1:] + apart[:, 1:, :-1] + apart[:, :-1, :-1]) / 4
    contrast, other_contrast = a.std(axis=(1, 2)), b.std(axis=(1, 2))
    covariance = (a * b).mean(axis=(1, 2)) - a.mean(axis=(1, 2)) * b.mean(axis=(1, 2))
    agree: NDArray[np.bool_] = (
        (blocks.max(axis=(1, 2)) <= most)
        & (np.minimum(contrast, other_contrast) >= _LEAST_CONTRAST)
        & (covariance >= least * contrast * other_contrast)
    )
    return agree
