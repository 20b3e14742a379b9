"""Antialiased line drawings in numpy, the same pixels on every machine.

Coverage comes from the distance to each line (IEEE arithmetic alone: + - * / sqrt), sines from a table rounded to 12
digits, so that neither the C library nor the processor has a say. Text is Pillow's built-in font, whose layout engine
is always the basic one.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont

Point = tuple[float, float]
Ink = NDArray[np.float64]

_COS = [round(math.cos(math.radians(degrees)), 12) for degrees in range(360)]


def cos(degrees: int) -> float:
    """Cosine of whole degrees, to 12 digits."""
    return _COS[degrees % 360]


def sin(degrees: int) -> float:
    """Sine of whole degrees, to 12 digits."""
    return cos(degrees - 90)


@dataclass
class Figure:
    """A plane figure in units of its own, y upwards; `Pen.draw` fits it into a picture."""

    points: dict[str, Point]
    lines: list[str] = field(default_factory=list)  # "AB": from A to B
    circle: tuple[str, float] | None = None  # centre and radius
    arcs: list[tuple[str, str]] = field(default_factory=list)  # ("ABC", "50"): the angle at B, and what to write in it
    right_angles: list[str] = field(default_factory=list)  # "ABC": a small square at B
    lengths: list[tuple[str, str]] = field(default_factory=list)  # ("AB", "3"): written beside the line
    unnamed: str = ""  # points without a letter in the picture

    def turned(self, degrees: int, mirrored: bool) -> "Figure":
        """The figure, mirrored or not, then turned anticlockwise."""
        c, s, sign = cos(degrees), sin(degrees), -1 if mirrored else 1
        points = {name: (sign * x * c - y * s, sign * x * s + y * c) for name, (x, y) in self.points.items()}
        return Figure(points, self.lines, self.circle, self.arcs, self.right_angles, self.lengths, self.unnamed)


@dataclass(frozen=True)
class Pen:
    """How lines look: half their width in pixels, and how dark they are (0 to 1)."""

    half_width: float
    darkness: float

    def draw(self, figure: Figure, image_size: int, shift: Point) -> tuple[Image.Image, dict[str, Point]]:
        """The figure as large as its picture allows, and where its points are (pixels, y downwards).

        `shift` (each 0 to 1) says where it lies in the room that is left over.
        """
        places, scale = _fit(figure, image_size, shift)
        ink: Ink = np.zeros((image_size, image_size))
        for line in figure.lines:
            self._line(ink, places[line[0]], places[line[1]])
        if figure.circle is not None:
            self._circle(ink, places[figure.circle[0]], figure.circle[1] * scale)
            _dot(ink, places[figure.circle[0]], 2.2 * self.half_width)
        for corner in figure.right_angles:
            self._square(ink, *(places[name] for name in corner))
        for corner, text in figure.arcs:
            self._angle(ink, [places[name] for name in corner], text)
        middle, out = _mean(list(places.values())), 0.75 * _text_size(image_size)
        beside = [(_beside(places[line[0]], places[line[1]], middle, out), text) for line, text in figure.lengths]
        for at, text in beside:
            _write(ink, at, text)
        for name, place in places.items():
            if name not in figure.unnamed:
                near = [at for at, _ in beside if _apart(place, at) < 2 * out]
                dx, dy = _clearest(_rays(figure, places, name) + [_direction(place, at) for at in near])
                _write(ink, (place[0] + dx * out, place[1] + dy * out), name)
        return Image.fromarray(np.rint(255 * (1 - np.clip(ink, 0, 1))).astype(np.uint8)).convert("RGB"), places

    def _stroke(self, ink: Ink, window: tuple[slice, slice], distance: Ink) -> None:
        cover = np.clip(self.half_width + 0.5 - distance, 0, 1) * self.darkness
        ink[window] = np.maximum(ink[window], cover)

    def _line(self, ink: Ink, a: Point, b: Point) -> None:
        window, x, y = _around(ink, [a, b], self.half_width)
        dx, dy = b[0] - a[0], b[1] - a[1]
        along = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy), 0, 1)
        off_x, off_y = x - a[0] - along * dx, y - a[1] - along * dy
        self._stroke(ink, window, np.sqrt(off_x * off_x + off_y * off_y))

    def _circle(self, ink: Ink, centre: Point, radius: float) -> None:
        corners = [(centre[0] - radius, centre[1] - radius), (centre[0] + radius, centre[1] + radius)]
        window, x, y = _around(ink, corners, self.half_width)
        self._stroke(ink, window, np.abs(_from(x, y, centre) - radius))

    def _angle(self, ink: Ink, corner: list[Point], text: str) -> None:
        """An arc about the middle point of `corner`, from the first line to the last, and its text."""
        a, vertex, b = corner
        radius = 0.11 * ink.shape[0]
        corners = [(vertex[0] - radius, vertex[1] - radius), (vertex[0] + radius, vertex[1] + radius)]
        window, x, y = _around(ink, corners, self.half_width)
        one, other = _direction(vertex, a), _direction(vertex, b)
        turn = 1.0 if one[0] * other[1] - one[1] * other[0] > 0 else -1.0
        after_one = turn * (one[0] * (y - vertex[1]) - one[1] * (x - vertex[0])) >= 0
        before_other = turn * (other[0] * (y - vertex[1]) - other[1] * (x - vertex[0])) <= 0
        distance = np.abs(_from(x, y, vertex) - radius)
        self._stroke(ink, window, np.where(after_one & before_other, distance, 1e9))
        half = (one[0] + other[0], one[1] + other[1])
        length = max(math.sqrt(half[0] * half[0] + half[1] * half[1]), 1e-6)
        # The narrower the angle, the further out its text has to stand (length / 2 is the cosine of half the angle).
        out = radius + (0.75 + 0.9 * max(0.0, length / 2 - 0.8) / 0.2) * _text_size(ink.shape[0])
        _write(ink, (vertex[0] + half[0] / length * out, vertex[1] + half[1] / length * out), text)

    def _square(self, ink: Ink, a: Point, vertex: Point, b: Point) -> None:
        side = 0.06 * ink.shape[0]
        one, other = _direction(vertex, a), _direction(vertex, b)
        first = (vertex[0] + side * one[0], vertex[1] + side * one[1])
        last = (vertex[0] + side * other[0], vertex[1] + side * other[1])
        middle = (first[0] + side * other[0], first[1] + side * other[1])
        self._line(ink, first, middle)
        self._line(ink, middle, last)


def _fit(figure: Figure, image_size: int, shift: Point) -> tuple[dict[str, Point], float]:
    """Pixel places of the points, and pixels per unit."""
    corners = list(figure.points.values())
    if figure.circle is not None:
        (x, y), radius = figure.points[figure.circle[0]], figure.circle[1]
        corners += [(x - radius, y - radius), (x + radius, y + radius)]
    left, right = min(x for x, _ in corners), max(x for x, _ in corners)
    low, high = min(y for _, y in corners), max(y for _, y in corners)
    margin = 1.35 * _text_size(image_size)
    room = image_size - 2 * margin
    scale = room / max(right - left, high - low)
    over_x, over_y = room - (right - left) * scale, room - (high - low) * scale
    places = {
        name: (margin + over_x * shift[0] + (x - left) * scale, margin + over_y * shift[1] + (high - y) * scale)
        for name, (x, y) in figure.points.items()
    }
    return places, scale


def _around(ink: Ink, corners: list[Point], half_width: float) -> tuple[tuple[slice, slice], Ink, Ink]:
    """The window about `corners`, with the x and y of its pixels' centres."""
    size, reach = ink.shape[0], half_width + 1.5
    left = max(0, int(min(x for x, _ in corners) - reach))
    top = max(0, int(min(y for _, y in corners) - reach))
    right = min(size, int(max(x for x, _ in corners) + reach) + 1)
    bottom = min(size, int(max(y for _, y in corners) + reach) + 1)
    x = np.arange(left, right, dtype=np.float64)[None, :] + 0.5
    y = np.arange(top, bottom, dtype=np.float64)[:, None] + 0.5
    return (slice(top, bottom), slice(left, right)), x, y


def _from(x: Ink, y: Ink, centre: Point) -> Ink:
    dx, dy = x - centre[0], y - centre[1]
    return np.asarray(np.sqrt(dx * dx + dy * dy))


def _dot(ink: Ink, centre: Point, radius: float) -> None:
    window, x, y = _around(ink, [centre], radius)
    ink[window] = np.maximum(ink[window], np.clip(radius + 0.5 - _from(x, y, centre), 0, 1))


def _direction(a: Point, b: Point) -> Point:
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = max(math.sqrt(dx * dx + dy * dy), 1e-9)
    return dx / length, dy / length


def _apart(a: Point, b: Point) -> float:
    return math.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2)


def _mean(points: list[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _rays(figure: Figure, places: dict[str, Point], name: str) -> list[Point]:
    """The directions in which something is drawn from a point: lines, the circle's tangent, texts of angles."""
    place, rays = places[name], []
    for line in figure.lines:
        one, other = _direction(place, places[line[0]]), _direction(place, places[line[1]])
        across = one[0] * other[1] - one[1] * other[0]
        ahead = one[0] * other[0] + one[1] * other[1]
        if name in line or (abs(across) < 1e-6 and ahead < 0):
            rays += [one, other]
    if figure.circle is not None and figure.circle[0] != name:
        inwards = _direction(place, places[figure.circle[0]])
        rays += [inwards, (-inwards[1], inwards[0]), (inwards[1], -inwards[0])]
    for corner, _ in figure.arcs:
        if corner[1] == name:
            one, other = _direction(place, places[corner[0]]), _direction(place, places[corner[2]])
            rays.append(_direction((0.0, 0.0), (one[0] + other[0], one[1] + other[1])))
    return [ray for ray in rays if ray != (0.0, 0.0)]


def _clearest(rays: list[Point]) -> Point:
    """The direction furthest from all of `rays`, of 24 that are 15 degrees apart."""
    directions = [(cos(degrees), sin(degrees)) for degrees in range(0, 360, 15)]
    # Rounded, so that equal ones stay equal on every machine and the first of them is taken.
    return min(directions, key=lambda d: round(max((d[0] * x + d[1] * y for x, y in rays), default=0.0), 6))


def _beside(a: Point, b: Point, middle: Point, out: float) -> Point:
    """The place `out` pixels from the middle of a line, on the side that is away from the figure's middle."""
    dx, dy = _direction(a, b)
    at = _mean([a, b])
    side = 1.0 if round((at[0] - middle[0]) * -dy + (at[1] - middle[1]) * dx, 6) >= 0 else -1.0
    return at[0] - dy * side * out, at[1] + dx * side * out


def _text_size(image_size: int) -> int:
    return max(8, round(image_size * 0.085))


@lru_cache(maxsize=512)
def _glyphs(text: str, size: int) -> Ink:
    """Ink of a text, cut to its outline, 0 to 1."""
    # load_default always lays text out with the basic engine, whether or not the machine has Raqm.
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    mask = font.getmask(text, mode="L")
    ink: Ink = np.array(mask, dtype=np.float64).reshape(mask.size[1], mask.size[0]) / 255
    return ink


def _write(ink: Ink, centre: Point, text: str) -> None:
    """`text` about `centre`, moved so far inwards that all of it is in the picture."""
    if not text:
        return
    glyphs = _glyphs(text, _text_size(ink.shape[0]))
    height, width = glyphs.shape
    # Rounded twice: a place is the same to 1e-6 on every machine, and so is its whole pixel.
    left = min(max(round(round(centre[0] - width / 2, 6)), 0), ink.shape[1] - width)
    top = min(max(round(round(centre[1] - height / 2, 6)), 0), ink.shape[0] - height)
    window = (slice(top, top + height), slice(left, left + width))
    ink[window] = np.maximum(ink[window], glyphs)
