"""Solids as small shaded pictures ("sprites"), ray-marched once and kept.

Every pixel has to be the same on every machine, so nothing here leaves IEEE arithmetic: only + - * / sqrt min max,
which are exact everywhere (sin, exp and pow are not); directions are rational; sums are taken in integers.

World axes: x right, y away from the camera, z up; a solid stands on z = 0 and is about two units wide. The camera is
orthographic and looks down on the ground.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]

CAMERA_SIN, CAMERA_COS = 0.6, 0.8  # of the angle under which the camera looks down
SPAN = 3.4  # side of a sprite in world units
_LOW = -1.15  # lower edge of a sprite below the point where the solid stands, in world units

# Unit vectors towards the light (rational, see above): from the left, the right and far right, all before the solids.
LIGHTS = ((-2 / 7, -3 / 7, 6 / 7), (2 / 7, -3 / 7, 6 / 7), (3 / 7, -2 / 7, 6 / 7))
# (cos, sin) of the turns a cube can have about the vertical.
TURNS = ((24 / 25, 7 / 25), (12 / 13, 5 / 13), (4 / 5, 3 / 5), (3 / 5, 4 / 5), (5 / 13, 12 / 13))


class Sprite(NamedTuple):
    """A solid as seen at one size: float32 arrays `(px, px)`, the first row at the top; colour is not in it yet."""

    cover: NDArray[np.float32]  # share of the pixel that the solid covers
    light: NDArray[np.float32]  # factor on the solid's colour, times cover
    gloss: NDArray[np.float32]  # white light added, times cover
    shadow: NDArray[np.float32]  # share of the light that the ground loses
    solid: NDArray[np.bool_]  # cover of at least one half


@dataclass(frozen=True)
class Circle:
    """The circle about a solid's outline, in world units to the right of and down from the sprite's top left corner."""

    x: float
    y: float
    radius: float


def _root(square: Grid | float) -> Grid:
    return np.asarray(np.sqrt(square))


def _distance(shape: str, turn: int, x: Grid, y: Grid, z: Grid) -> Grid:
    """Distance to the surface, negative inside (for the cone a lower bound of it)."""
    if shape == "sphere":
        return _root(x * x + y * y + (z - 1) * (z - 1)) - 1
    if shape == "cube":
        cos, sin = TURNS[turn]
        half, edge = 0.8, 0.07  # the edge is rounded
        parts = [np.abs(cos * x + sin * y), np.abs(cos * y - sin * x), np.abs(z - half)]
        a, b, c = (part - (half - edge) for part in parts)
        outside = _root(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2 + np.maximum(c, 0) ** 2)
        return outside + np.minimum(np.maximum(np.maximum(a, b), c), 0) - edge
    across = _root(x * x + y * y)
    if shape == "cylinder":
        a, b = across - 0.85, np.abs(z - 0.8) - 0.8
        return _root(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2) + np.minimum(np.maximum(a, b), 0)
    if shape == "cone":
        return np.maximum((across * 2.0 + z * 1.05 - 2.1) / _root(2.0 * 2.0 + 1.05 * 1.05), -z)
    if shape == "torus":
        ring = across - 0.7
        return _root(ring * ring + (z - 0.42) * (z - 0.42)) - 0.42
    raise ValueError(f"shape {shape!r}")


def _march(shape: str, turn: int, side: int) -> tuple[NDArray[np.bool_], Grid, Grid, Grid]:
    """Where each of `side` x `side` rays meets the solid: hit, and the outward unit normal (x, y, z) there."""
    steps = (np.arange(side, dtype=np.float64) + 0.5) * (SPAN / side)
    right, up = np.meshgrid(steps - SPAN / 2, SPAN + _LOW - steps)
    x, y, z = right, up * CAMERA_SIN - 5 * CAMERA_COS, up * CAMERA_COS + 5 * CAMERA_SIN
    for _ in range(48):
        step = _distance(shape, turn, x, y, z)
        y, z = y + step * CAMERA_COS, z - step * CAMERA_SIN
    hit = np.abs(_distance(shape, turn, x, y, z)) < 0.01
    nudge = 1e-3
    normal = [
        _distance(shape, turn, x + dx, y + dy, z + dz) - _distance(shape, turn, x - dx, y - dy, z - dz)
        for dx, dy, dz in ((nudge, 0, 0), (0, nudge, 0), (0, 0, nudge))
    ]
    length = np.maximum(np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2), 1e-9)
    return hit, normal[0] / length, normal[1] / length, normal[2] / length


def _power(base: Grid, doublings: int) -> Grid:
    """base ** (2 ** doublings) by squaring: pow rounds differently from one libm to the next."""
    for _ in range(doublings):
        base = base * base
    return base


def _shade(normal: tuple[Grid, Grid, Grid], metal: bool, light: int) -> tuple[Grid, Grid]:
    """The factor on the colour and the white gloss of a surface with this normal."""
    nx, ny, nz = normal
    lx, ly, lz = LIGHTS[light]
    facing = np.maximum(nx * lx + ny * ly + nz * lz, 0)
    # Blinn-Phong: the half-way vector between the light and the eye, which is at (0, -cos, sin).
    hx, hy, hz = lx, ly - CAMERA_COS, lz + CAMERA_SIN
    size = np.sqrt(hx * hx + hy * hy + hz * hz)
    glint = np.maximum((nx * hx + ny * hy + nz * hz) / size, 0)
    if not metal:
        return 0.42 + 0.66 * facing, 0.10 * _power(glint, 3)
    # A mirrored ray that goes up sees the bright studio, one that goes down the dim ground.
    towards = ny * CAMERA_COS - nz * CAMERA_SIN
    up = np.clip(-CAMERA_SIN - 2 * towards * nz, -1, 1)
    return 0.34 + 0.42 * facing + 0.36 * _power(0.5 + 0.5 * up, 1), 0.75 * _power(glint, 5)


@lru_cache(maxsize=8)
def _averaging(px: int, side: int) -> NDArray[np.int64]:
    """(px, side) integer weights that average `side` pixels down to `px` by shared area; each row adds up to `side`."""
    starts, cells = np.arange(px)[:, None] * side, np.arange(side)[None, :] * px
    shared = np.minimum(starts + side, cells + px) - np.maximum(starts, cells)
    return np.asarray(np.clip(shared, 0, None), dtype=np.int64)


def _shrink(plane: Grid, px: int) -> NDArray[np.float32]:
    """`plane` averaged down to `(px, px)`, summed in integers so that the order of the sum does not matter."""
    weights = _averaging(px, plane.shape[0])
    total = weights @ np.rint(plane * 4096).astype(np.int64) @ weights.T
    return np.asarray(total / (4096.0 * plane.shape[0] ** 2), dtype=np.float32)


@lru_cache(maxsize=1024)
def _shadow(tall: float, light: int, px: int, side: int) -> NDArray[np.float32]:
    """A soft ellipse on the ground, moved away from the light by the solid's height."""
    steps = (np.arange(side, dtype=np.float64) + 0.5) * (SPAN / side)
    right, up = np.meshgrid(steps - SPAN / 2, SPAN + _LOW - steps)
    lx, ly, lz = LIGHTS[light]
    x, y = right + tall * lx / lz, up / CAMERA_SIN + tall * ly / lz
    squared = (x * x + y * y) / (1.45 * 1.45)
    return _shrink(np.minimum(0.87 * np.maximum(1 - squared, 0), 0.5), px)


@lru_cache(maxsize=64)
def _unit(shape: str, turn: int, side: int) -> tuple[NDArray[np.bool_], Grid, Grid, Grid]:
    return _march(shape, turn, side)


@lru_cache(maxsize=4096)
def sprite(shape: str, turn: int, metal: bool, light: int, px: int) -> Sprite:
    """The sprite of a solid, `px` pixels (`SPAN` world units) wide. Kept: treat its arrays as read-only."""
    side = 96
    while side < 2 * px:
        side *= 2
    hit, *normal = _unit(shape, turn, side)
    factor, gloss = _shade((normal[0], normal[1], normal[2]), metal, light)
    cover = _shrink(hit.astype(np.float64), px)
    return Sprite(
        cover=cover[..., None],
        light=_shrink(hit * factor, px)[..., None],
        gloss=_shrink(hit * gloss, px)[..., None],
        shadow=_shadow(0.3 if shape == "torus" else 0.7, light, px, side)[..., None],
        solid=cover >= 0.5,
    )


@lru_cache(maxsize=64)
def outline(shape: str, turn: int) -> Circle:
    """The circle about the solid as seen by the camera."""
    side = 96
    rows, columns = np.nonzero(_unit(shape, turn, side)[0])
    middle_x, middle_y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
    far = (columns + 0.5 - middle_x) ** 2 + (rows + 0.5 - middle_y) ** 2
    scale = SPAN / side
    return Circle(float(middle_x * scale), float(middle_y * scale), float((np.sqrt(far.max()) + 0.71) * scale))
