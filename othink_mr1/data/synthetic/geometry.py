"""Geometry problems with their diagrams, in the words of GeoQA and drawn to scale.

Values come from a coarse grid (angles in tens of degrees, small Pythagorean triples, so that a very small model can
learn something), and every answer is exact. In half of the diagrams the given values are written in as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from othink_mr1.data.solutions import solution_of
from othink_mr1.data.synthetic.drawing import Figure, Pen, Point, cos, sin
from othink_mr1.data.synthetic.randomness import scene_rng

_TASK_ID = 1
TRIPLES = ((3, 4, 5), (6, 8, 10), (5, 12, 13), (9, 12, 15), (8, 15, 17))


@dataclass(frozen=True)
class Problem:
    """A question with its figure. `asked` is what the question is about, as points: "ABC" an angle, "AB" a length."""

    text: str
    value: int
    thinking: str
    figure: Figure
    asked: str

    @property
    def answer(self) -> str:
        """`70°` for an angle, `8` for a length."""
        return f"{self.value}°" if len(self.asked) == 3 else str(self.value)


Random = np.random.Generator


def _tens(rng: Random, low: int, high: int, step: int = 10) -> int:
    """One of low, low + step, ..., high."""
    return low + step * int(rng.integers((high - low) // step + 1))


def _triangle(angle_a: int, angle_b: int) -> dict[str, Point]:
    """A triangle with these angles at A and B, side BC on the x axis (law of sines)."""
    angle_c = 180 - angle_a - angle_b
    ab = sin(angle_c)
    return {"A": (ab * cos(angle_b), ab * sin(angle_b)), "B": (0.0, 0.0), "C": (sin(angle_a), 0.0)}


_SIDES = ["AB", "BC", "CA"]


def _third_angle(rng: Random, written: bool) -> Problem:
    a = _tens(rng, 30, 100)
    b = _tens(rng, 30, 150 - a)
    c = 180 - a - b
    arcs = [("BAC", f"{a}°"), ("ABC", f"{b}°")] if written else [("ACB", "")]
    return Problem(
        f"in triangle ABC, angle A = {a}.0, angle B = {b}.0, then the size of angle C is ()",
        c,
        f"180 - {a} - {b} = {c}",
        Figure(_triangle(a, b), _SIDES, arcs=arcs),
        "ACB",
    )


def _exterior_angle(rng: Random, written: bool) -> Problem:
    a = _tens(rng, 30, 90)
    b = _tens(rng, 30, 140 - a)
    points = _triangle(a, b)
    points["D"] = (1.55 * points["C"][0], 0.0)
    arcs = [("BAC", f"{a}°"), ("ABC", f"{b}°")] if written else [("ACD", "")]
    return Problem(
        f"in triangle ABC, point D is on the extension of BC, angle A = {a}.0, angle B = {b}.0, "
        "then the size of angle ACD is ()",
        a + b,
        f"{a} + {b} = {a + b}",
        Figure(points, ["AB", "CA", "BD"], arcs=arcs),
        "ACD",
    )


def _apex_given(rng: Random, written: bool) -> Problem:
    a = _tens(rng, 20, 120, 20)
    b = (180 - a) // 2
    return Problem(
        f"in triangle ABC, AB = AC, angle A = {a}.0, then the size of angle B is ()",
        b,
        f"180 - {a} = {180 - a} , {180 - a} / 2 = {b}",
        Figure(_triangle(a, b), _SIDES, arcs=[("BAC", f"{a}°")] if written else [("ABC", "")]),
        "ABC",
    )


def _base_given(rng: Random, written: bool) -> Problem:
    b = _tens(rng, 30, 80)
    a = 180 - 2 * b
    return Problem(
        f"in triangle ABC, AB = AC, angle B = {b}.0, then the size of angle A is ()",
        a,
        f"180 - {b} - {b} = {a}",
        Figure(_triangle(a, b), _SIDES, arcs=[("ABC", f"{b}°")] if written else [("BAC", "")]),
        "BAC",
    )


def _parallels(rng: Random, written: bool) -> Problem:
    """Angles between two parallels: alternate ones are equal, those on one side add up to 180."""
    slope = _tens(rng, 40, 140)
    alternate = bool(rng.integers(2))
    numbered = bool(rng.integers(2))
    lean = cos(slope) / sin(slope)  # how far E lies to the right of F, the parallels being 1 apart
    points = {
        "A": (lean - 1.1, 1.0),
        "B": (lean + 1.1, 1.0),
        "C": (-1.1, 0.0),
        "D": (1.1, 0.0),
        "E": (lean, 1.0),
        "F": (0.0, 0.0),
        "P": (1.4 * lean, 1.4),
        "Q": (-0.4 * lean, -0.4),
    }
    given, value = ("AEF", slope) if alternate else ("BEF", 180 - slope)
    names = ("angle 1", "angle 2") if numbered else (f"angle {given}", "angle EFD")
    # Where the question says 1 and 2, the diagram alone says which angles they are.
    arcs = [(given, "1"), ("EFD", "2")] if numbered else [(given, f"{value}°" if written else "")]
    return Problem(
        "AB parallel CD, straight line EF intersects AB at point E, intersects CD at point F, "
        f"{names[0]} = {value}.0, then {names[1]} is equal to ()",
        slope,
        f"{value} = {slope}" if alternate else f"180 - {value} = {slope}",
        Figure(points, ["AB", "CD", "PQ"], arcs=arcs, unnamed="PQ"),
        "EFD",
    )


def _on_circle(degrees: int) -> Point:
    return cos(degrees), sin(degrees)


def _circle_angle(rng: Random, written: bool) -> Problem:
    """The angle at the centre is twice the one at the rim over the same arc."""
    rim = _tens(rng, 20, 80)
    centre = 2 * rim
    third = _tens(rng, centre + 30, 330)
    to_rim = bool(rng.integers(2))
    points = {"O": (0.0, 0.0), "A": _on_circle(0), "B": _on_circle(centre), "C": _on_circle(third)}
    given, asked = ("AOB", "ACB") if to_rim else ("ACB", "AOB")
    known, value = (centre, rim) if to_rim else (rim, centre)
    return Problem(
        f"points A, B, C are on circle O, angle {given} = {known}.0, then the size of angle {asked} is ()",
        value,
        f"{centre} / 2 = {rim}" if to_rim else f"{rim} * 2 = {centre}",
        Figure(
            points,
            ["OA", "OB", "CA", "CB"],
            circle=("O", 1.0),
            arcs=[(given, f"{known}°")] if written else [(asked, "")],
        ),
        asked,
    )


def _diameter(rng: Random, written: bool) -> Problem:
    radius = int(rng.integers(2, 10))
    to_diameter = bool(rng.integers(2))
    points = {"O": (0.0, 0.0), "A": (-float(radius), 0.0), "B": (float(radius), 0.0)}
    given, asked = ("OA", "AB") if to_diameter else ("AB", "OA")
    known, value = (radius, 2 * radius) if to_diameter else (2 * radius, radius)
    return Problem(
        f"AB is a diameter of circle O, {given} = {known}.0, then the length of {asked} is ()",
        value,
        f"{radius} * 2 = {2 * radius}" if to_diameter else f"{2 * radius} / 2 = {radius}",
        Figure(points, ["AB"], circle=("O", float(radius)), lengths=[(given, str(known))] if written else []),
        asked,
    )


def _right_triangle(rng: Random, written: bool) -> Problem:
    short, long, slant = TRIPLES[int(rng.integers(len(TRIPLES)))]
    ac, bc = (short, long) if rng.integers(2) else (long, short)
    points = {"A": (0.0, float(ac)), "B": (float(bc), 0.0), "C": (0.0, 0.0)}
    asked = ("AB", "AC", "BC")[int(rng.integers(3))]
    lengths = {"AB": slant, "AC": ac, "BC": bc}
    value = lengths.pop(asked)
    (one, first), (other, second) = lengths.items()
    sign = "+" if asked == "AB" else "-"
    total = value * value
    return Problem(
        f"in triangle ABC, angle C = 90.0, {one} = {first}.0, {other} = {second}.0, then the length of {asked} is ()",
        value,
        f"{first * first} {sign} {second * second} = {total} , {value} * {value} = {total}",
        Figure(
            points,
            _SIDES,
            right_angles=["ACB"],
            lengths=[(one, str(first)), (other, str(second))] if written else [],
        ),
        asked,
    )


KINDS: tuple[Callable[[Random, bool], Problem], ...] = (
    _third_angle,
    _exterior_angle,
    _apex_given,
    _base_given,
    _parallels,
    _circle_angle,
    _diameter,
    _right_triangle,
)


def scene(seed: int, index: int, split: str, image_size: int) -> dict[str, Any]:
    """Problem `index` of a split with its diagram: the same pixels on every machine.

    Args:
        split: train, validation, test or pretrain.
        image_size: side of the square picture, pixels; at least 48.

    Returns:
        image (PIL, RGB), problem, answer (`70°` or `8`), solution, thinking; points: name to (x, y) in pixels; asked:
        what the answer measures, "ACB" the angle at C or "AB" a length; unit: pixels to one unit of length.
    """
    if image_size < 48:
        raise ValueError(f"image_size {image_size} is under 48: the letters could not be read")
    rng = scene_rng(_TASK_ID, seed, index, split)
    problem = KINDS[int(rng.integers(len(KINDS)))](rng, bool(rng.integers(2)))
    figure = problem.figure.turned(int(rng.integers(360)), mirrored=bool(rng.integers(2)))
    width, darkness, right, down = rng.random(4).tolist()
    pen = Pen(half_width=image_size / 128 * (0.35 + 0.55 * width), darkness=0.7 + 0.3 * darkness)
    image, places = pen.draw(figure, image_size, (right, down))
    return {
        "image": image,
        "problem": f"As shown in the figure, {problem.text}",
        "answer": problem.answer,
        "solution": solution_of(problem.answer),
        "thinking": problem.thinking,
        "points": places,
        "asked": problem.asked,
        "unit": _unit(figure.points, places),
    }


def _unit(before: dict[str, Point], after: dict[str, Point]) -> float:
    (a, b) = list(before)[:2]
    x, y = before[a][0] - before[b][0], before[a][1] - before[b][1]
    u, v = after[a][0] - after[b][0], after[a][1] - after[b][1]
    return float(np.sqrt((u * u + v * v) / (x * x + y * y)))
