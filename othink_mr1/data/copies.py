"""Pictures that are copies of each other although their bytes and pixels differ: re-encoded, or scaled.

A picture is known by its thumbnail, 48 x 48 levels of grey. A perceptual hash of it (the signs of its 63 lowest DCT
coefficients, after pHash) names the candidates; alone it would call many scenes on one background the same. So the
thumbnails of each candidate are compared level by level: they have to rise and fall together, and nowhere may 2 x 2
neighbours differ much, for encoding and scaling change every part a little, another scene some part a lot. Where one of
the two pictures is small it has no 48 x 48 levels of its own: then they are compared at 24 x 24.

What it finds and what not, in figures: docs/data.md. Two limits: a copy made by leaving out every other pixel, without
averaging, can be missed; and drawings that differ in less than the thumbnail shows, such as a thin line's width, count
as copies.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 48
_MOST_BITS = 20
_MOST_LEVELS = 27
_LEAST_CORRELATION = 0.9
_LEAST_CONTRAST = 1.5  # standard deviation: a picture of one colour has no shape to know it by
_SMALL = 2 * SIDE  # pixels of the shorter side: from there on each level is a mean of 2 x 2 pixels or more
_PAIRS = 512  # compared at a time: 512 x 2304 levels, some 5 MB as floats


class Pictures(NamedTuple):
    """What is known of n pictures."""

    thumbnails: NDArray[np.uint8]  # (n, SIDE * SIDE)
    sides: NDArray[np.int32]  # (n,), the shorter one, pixels


def thumbnail(picture: Image.Image) -> bytes:
    """The grey levels of an RGB picture at 48 x 48, row by row: 2304 bytes."""
    return picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0).tobytes()


def near_copies(rows: Pictures, others: Pictures) -> dict[int, int]:
    """The rows that are copies of some other, each with the first that it is a copy of."""
    bits_apart = (63 - _signs(rows.thumbnails) @ _signs(others.thumbnails).T) / 2
    candidates = np.argwhere(bits_apart <= _MOST_BITS)
    # What agrees in 2 x 2 neighbours agrees in the mean of larger blocks, and those are few.
    blocks, other_blocks = _averaged(rows.thumbnails, SIDE // 6), _averaged(others.thumbnails, SIDE // 6)
    found: dict[int, int] = {}
    for start in range(0, len(candidates), _PAIRS):
        pairs = candidates[start : start + _PAIRS]
        pairs = pairs[np.abs(blocks[pairs[:, 0]] - other_blocks[pairs[:, 1]]).max(axis=(1, 2)) <= _MOST_LEVELS]
        copies = pairs[_alike(_take(rows, pairs[:, 0]), _take(others, pairs[:, 1]))]
        for row, first in zip(*np.unique(copies[:, 0], return_index=True), strict=True):
            found.setdefault(int(row), int(copies[first, 1]))
    return found


def _take(pictures: Pictures, which: NDArray[np.intp]) -> Pictures:
    return Pictures(pictures.thumbnails[which], pictures.sides[which])


def _cosines() -> NDArray[np.float32]:
    """The first 8 rows of the DCT-II, (8, SIDE), not normalised."""
    angles = np.arange(8)[:, None] * (np.arange(SIDE) + 0.5) * (np.pi / SIDE)
    return np.cos(angles).astype(np.float32)


_COSINES = _cosines()


def _signs(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The hash, (n, 63), as 1 and -1, so that a product of two counts the bits that they share."""
    levels = thumbnails.reshape(-1, SIDE, SIDE).astype(np.float32)
    coefficients = (_COSINES @ levels @ _COSINES.T).reshape(-1, 64)[:, 1:]  # the first is the mean
    above = coefficients > np.median(coefficients, axis=1, keepdims=True)
    return np.where(above, np.float32(1), np.float32(-1))


def _alike(some: Pictures, others: Pictures) -> NDArray[np.bool_]:
    """Whether the thumbnails of each pair agree, (n,)."""
    a, b = (pictures.thumbnails.reshape(-1, SIDE, SIDE).astype(np.float32) for pictures in (some, others))
    small = np.minimum(some.sides, others.sides) < _SMALL
    agree = np.empty(len(a), dtype=np.bool_)
    agree[~small] = _agree(a[~small], b[~small])
    agree[small] = _agree(_averaged(a[small], 2), _averaged(b[small], 2))
    return agree


def _averaged(levels: NDArray[Any], by: int) -> NDArray[np.float32]:
    """The means of blocks of `by` x `by` levels, (n, SIDE / by, SIDE / by)."""
    parts = levels.reshape(-1, SIDE // by, by, SIDE // by, by)
    averaged: NDArray[np.float32] = parts.mean(axis=(2, 4), dtype=np.float32)
    return averaged


def _agree(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    apart = np.abs(a - b)
    blocks = (apart[:, 1:, 1:] + apart[:, :-1, 1:] + apart[:, 1:, :-1] + apart[:, :-1, :-1]) / 4
    contrast, other_contrast = a.std(axis=(1, 2)), b.std(axis=(1, 2))
    covariance = (a * b).mean(axis=(1, 2)) - a.mean(axis=(1, 2)) * b.mean(axis=(1, 2))
    agree: NDArray[np.bool_] = (
        (blocks.max(axis=(1, 2)) <= _MOST_LEVELS)
        & (np.minimum(contrast, other_contrast) >= _LEAST_CONTRAST)
        & (covariance >= _LEAST_CORRELATION * contrast * other_contrast)
    )
    return agree
