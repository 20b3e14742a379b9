"""Pictures that are copies of each other although their bytes and pixels differ: re-encoded, or scaled.

Three looks, each at fewer pairs than the one before.

- A picture is known by its thumbnail, 48 x 48 levels of grey. A perceptual hash of it (whether its 63 lowest DCT
  coefficients are above their median, after pHash) names the candidates; alone it would call many scenes on one
  background the same. A coefficient close to the median counts as either: in a symmetric drawing most of them are.
- `similar`: the thumbnails have to rise and fall together, and nowhere may 2 x 2 neighbours differ much, for encoding
  and scaling change every part a little, another scene some part a lot. Where one of the two pictures is small it has
  no 48 x 48 levels of its own: then they are compared at 24 x 24, and where it is smaller than the thumbnail more may
  differ.
- `closely` and `same_drawing`: the pictures themselves, at half the scale of the smaller one, and their colours at a
  quarter. Another number, a thicker line, an item of another colour shows there, if it is not small.

All of it is arithmetic of whole numbers, exact in any order: the same rows go on every machine.

What they find and what not, in figures: docs/data.md. A copy of a drawing made by leaving out every other pixel,
without averaging, is mostly missed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 48
_MOST_BITS = 20
_UNIT = 4096  # cosines are whole multiples of 1 / _UNIT
_NEAR_MEDIAN = 64 * _UNIT**2  # some levels of noise in the thumbnail move a coefficient as far
_LEAST_CONTRAST = 1.5  # standard deviation: a picture of one colour has no shape to know it by
_SMALL = 2 * SIDE  # pixels of the shorter side: from there on each level is a mean of 2 x 2 pixels or more
# How much 2 x 2 neighbours may differ, and how well all levels have to agree. Less at 24 x 24, where each level is the
# mean of more pixels; more where one of the two has fewer pixels than the thumbnail levels.
_MOST_LEVELS, _LEAST_CORRELATION = 20.0, 0.975
_MOST_LEVELS_SMALL = 14.0
_MOST_LEVELS_TINY, _LEAST_CORRELATION_TINY = 27.0, 0.9
_COARSE = 6  # levels to a side that pairs are compared by first
# `same_drawing`: pixels of the shorter side, and how much levels may differ there, smoothed over 3 x 3. Below the first
# a picture is compared as large as it is, and scaling leaves more of a difference.
_LEAST_CLOSE, _MOST_CLOSE = 96, 256
_MOST_APART, _MOST_APART_SMALL = 25, 32
_MOST_COLOUR_APART, _MOST_COLOUR_APART_SMALL = 26, 32
_GREY = 8  # no colour is further from grey than that
_PAIRS = 512  # compared at a time: 512 x 2304 levels, some 5 MB as floats
_COARSE_PAIRS = 2**14  # the same at 6 x 6


@dataclass(frozen=True)
class Pictures:
    """What is known of n pictures."""

    thumbnails: NDArray[np.uint8]  # (n, SIDE * SIDE)
    sides: NDArray[np.int32]  # (n,), the shorter one, pixels
    signs: NDArray[np.float32]  # (n, 63), the hash: 1 above the median, -1 below, 0 for either
    coarse: NDArray[np.float32]  # (n, 6 * 6), the thumbnails at 6 x 6


def thumbnail(picture: Image.Image) -> bytes:
    """The grey levels of an RGB picture at 48 x 48, row by row: 2304 bytes."""
    return picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0).tobytes()


def known_by(thumbnails: NDArray[np.uint8], sides: NDArray[np.int32]) -> Pictures:
    """What is known of pictures with these thumbnails, (n, SIDE * SIDE), and shorter sides, (n,)."""
    both = len(_TRANSFORM)
    levels = thumbnails.reshape(-1, SIDE).astype(np.float64)
    across = (levels @ _TRANSFORM.T).reshape(-1, SIDE, both).transpose(0, 2, 1)
    down = (across.reshape(-1, SIDE) @ _TRANSFORM.T).reshape(-1, both, both)
    coefficients = down[:, :8, :8].reshape(-1, 64)[:, 1:]  # the first is the mean
    above = coefficients - np.partition(coefficients, 31, axis=1)[:, 31:32]  # the median
    signs = np.where(np.abs(above) <= _NEAR_MEDIAN, 0, np.sign(above)).astype(np.float32)
    coarse = (down[:, 8:, 8:].reshape(-1, _COARSE**2) / (SIDE // _COARSE) ** 2).astype(np.float32)
    return Pictures(thumbnails, sides, signs, coarse)


def similar(rows: Pictures, others: Pictures) -> dict[int, list[int]]:
    """The rows whose thumbnails agree with those of others, each with these, the most alike first."""
    signs, other_signs = rows.signs, others.signs.T
    # Where both are known a product is 1 or -1: this is twice the number of bits that differ.
    differ = np.abs(signs) @ np.abs(other_signs) - signs @ other_signs
    pairs = np.argwhere(differ <= 2 * _MOST_BITS)
    pairs = np.concatenate([_coarsely_alike(rows, others, some) for some in _in_parts(pairs, _COARSE_PAIRS)])
    found: dict[int, list[tuple[float, int]]] = {}
    for some in _in_parts(pairs, _PAIRS):
        differences = _differences(rows, some[:, 0], others, some[:, 1])
        agree = np.isfinite(differences)
        for (row, other), difference in zip(some[agree].tolist(), differences[agree].tolist(), strict=True):
            found.setdefault(row, []).append((difference, other))
    return {row: [other for _, other in sorted(alike)] for row, alike in found.items()}


def _in_parts(pairs: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    """At least one part, though an empty one."""
    return (pairs[start : start + size] for start in range(0, max(1, len(pairs)), size))


def _coarsely_alike(rows: Pictures, others: Pictures, pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Those of some pairs, (n, 2), that can be alike: what agrees in 2 x 2 neighbours agrees in the mean of blocks."""
    apart = np.abs(rows.coarse[pairs[:, 0]] - others.coarse[pairs[:, 1]]).max(axis=1)
    alike: NDArray[np.intp] = pairs[apart <= _MOST_LEVELS_TINY]
    return alike


@dataclass(frozen=True)
class Close:
    """A picture, looked at closely: its smoothed levels of grey and its smoothed colours, as sixteenths of a level."""

    grey: NDArray[np.int16]  # (height, width)
    colours: NDArray[np.int16]  # (height / 2, width / 2, 2): Cb and Cr, 0 for grey


def close_size(size: tuple[int, int], other_size: tuple[int, int]) -> tuple[int, int]:
    """The width and height in pixels at which two pictures of these sizes are held against each other."""
    width, height = min(size, other_size, key=min)
    side = min(width, height)
    scale = min(1.0, min(max(_LEAST_CLOSE, side / 2), _MOST_CLOSE) / side)
    return round(width * scale), round(height * scale)


def closely(picture: Image.Image, size: tuple[int, int]) -> Close:
    """An RGB picture at `close_size`."""
    small = picture.resize(size, Image.Resampling.BILINEAR).convert("YCbCr")
    half = small.reduce(2)
    return Close(_smooth(np.asarray(small)[..., :1])[..., 0], _smooth(np.asarray(half)[..., 1:]) - 16 * 128)


def same_drawing(one: Close, other: Close) -> bool:
    """Whether two pictures whose thumbnails agree do so when they are looked at closely; colour or grey may be one."""
    small = min(one.grey.shape) + 2 < _LEAST_CLOSE
    most, most_colour = (_MOST_APART_SMALL, _MOST_COLOUR_APART_SMALL) if small else (_MOST_APART, _MOST_COLOUR_APART)
    if np.abs(one.grey - other.grey).max() > 16 * most:
        return False
    if min(np.abs(close.colours).max(initial=0) for close in (one, other)) <= 16 * _GREY:
        return True
    return bool(np.abs(one.colours - other.colours).max() <= 16 * most_colour)


def _smooth(levels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Levels (h, w, c), weighted 1 2 1 along both sides, times 16: (h - 2, w - 2, c)."""
    wide = levels.astype(np.int16)
    across = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    smooth: NDArray[np.int16] = across[:-2] + 2 * across[1:-1] + across[2:]
    return smooth


def _transform() -> NDArray[np.float64]:
    """The first 8 rows of the DCT-II, not normalised, times _UNIT, and the sums over sixths of the side: (14, SIDE).

    They are whole, and so are their sums over thumbnails, far below 2^53.
    """
    cosines = np.rint(_UNIT * np.cos(np.arange(8)[:, None] * (np.arange(SIDE) + 0.5) * (np.pi / SIDE)))
    return np.concatenate([cosines, np.repeat(np.eye(_COARSE), SIDE // _COARSE, axis=1)])


_TRANSFORM = _transform()


def _differences(
    rows: Pictures, which: NDArray[np.intp], others: Pictures, which_others: NDArray[np.intp]
) -> NDArray[np.float64]:
    """How much the thumbnails of each pair differ where they differ most, (n,); infinite where they do not agree."""
    a, b = (
        pictures.thumbnails[chosen].reshape(-1, SIDE, SIDE).astype(np.int32)
        for pictures, chosen in ((rows, which), (others, which_others))
    )
    sides = np.minimum(rows.sides[which], others.sides[which_others])
    small, tiny = sides < _SMALL, sides < SIDE
    most = np.select([tiny, small], [_MOST_LEVELS_TINY, _MOST_LEVELS_SMALL], _MOST_LEVELS)
    least = np.where(tiny, _LEAST_CORRELATION_TINY, _LEAST_CORRELATION)
    apart = np.empty(len(a))
    apart[~small] = _apart(a[~small], b[~small], most[~small], least[~small])
    apart[small] = _apart(_halved(a[small]), _halved(b[small]), 4 * most[small], least[small], 4) / 4
    return apart


def _halved(levels: NDArray[np.int32]) -> NDArray[np.int32]:
    """The sums of 2 x 2 levels, (n, SIDE / 2, SIDE / 2)."""
    halved: NDArray[np.int32] = levels.reshape(-1, SIDE // 2, 2, SIDE // 2, 2).sum(axis=(2, 4), dtype=np.int32)
    return halved


def _apart(
    a: NDArray[np.int32], b: NDArray[np.int32], most: NDArray[Any], least: NDArray[Any], unit: int = 1
) -> NDArray[np.float64]:
    """How far 2 x 2 neighbours are apart at most; infinite if over `most`, or if the correlation is under `least`.

    Args:
        unit: how many of the levels in `a` and `b` are one level of grey.
    """
    differences = np.abs(a - b)
    blocks = differences[:, 1:, 1:] + differences[:, :-1, 1:] + differences[:, 1:, :-1] + differences[:, :-1, :-1]
    apart = blocks.max(axis=(1, 2)) / 4
    variance, other_variance, covariance = _products(a, a), _products(b, b), _products(a, b)
    least_variance = (_LEAST_CONTRAST * unit * a.shape[1] * a.shape[2]) ** 2
    agree = (
        (apart <= most)
        & (np.minimum(variance, other_variance) >= least_variance)
        & (covariance >= least * np.sqrt(variance.astype(np.float64) * other_variance))
    )
    found: NDArray[np.float64] = np.where(agree, apart, np.inf)
    return found


def _products(a: NDArray[np.int32], b: NDArray[np.int32]) -> NDArray[np.int64]:
    """The covariances of n pairs, (n,), times the square of the number of their levels."""
    sums, other_sums = (levels.sum(axis=(1, 2), dtype=np.int64) for levels in (a, b))
    products = np.einsum("nij,nij->n", a, b, dtype=np.int64)
    covariances: NDArray[np.int64] = a.shape[1] * a.shape[2] * products - sums * other_sums
    return covariances
