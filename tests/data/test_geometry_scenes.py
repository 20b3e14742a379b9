"""Geometry scenes: what is drawn is what is asked, measured again in the drawing."""

import hashlib
import math
import re

import numpy as np
import pytest

from othink_mr1.data.synthetic import drawing, geometry

SCENES = [geometry.scene(5, index, "train", 128) for index in range(300)]


def measured(scene: dict) -> float:
    """The answer as read off the drawing with ruler and protractor."""
    points = {name: complex(*place) for name, place in scene["points"].items()}
    if len(scene["asked"]) == 2:
        a, b = scene["asked"]
        return abs(points[a] - points[b]) / scene["unit"]
    a, vertex, b = (points[name] for name in scene["asked"])
    return abs(
        math.degrees(
            math.atan2(((a - vertex).conjugate() * (b - vertex)).imag, ((a - vertex).conjugate() * (b - vertex)).real)
        )
    )


def test_drawings_are_to_scale_and_answers_exact() -> None:
    for scene in SCENES:
        value = float(scene["answer"].rstrip("°"))
        assert measured(scene) == pytest.approx(value, abs=1e-3), scene["problem"]


def test_angles_have_a_degree_sign_and_lengths_have_none() -> None:
    for scene in SCENES:
        assert re.fullmatch(r"\d+°" if len(scene["asked"]) == 3 else r"\d+", scene["answer"])
        assert scene["solution"] == f"<answer> {scene['answer']} </answer>"


def test_every_line_of_thinking_is_right_and_the_last_leads_to_the_answer() -> None:
    for scene in SCENES:
        *_, last = lines = scene["thinking"].split(" , ")
        for line in lines:
            left, right = line.split(" = ")
            assert re.fullmatch(r"[0-9 */+-]+", left)
            assert eval(left) == int(right)
        assert scene["answer"].rstrip("°") in last.split()


def test_values_given_in_the_question_hold_in_the_drawing() -> None:
    checked = 0
    for scene in SCENES:
        points = {name: complex(*place) for name, place in scene["points"].items()}
        for a, b, value in re.findall(r"\b([A-F])([A-F]) = (\d+)\.0", scene["problem"].replace("angle ", "angle_")):
            assert abs(points[a] - points[b]) / scene["unit"] == pytest.approx(int(value), abs=1e-3)
            checked += 1
        for corner, value in re.findall(r"angle ([A-F]{3}) = (\d+)\.0", scene["problem"]):
            assert measured({**scene, "asked": corner}) == pytest.approx(int(value), abs=1e-3)
            checked += 1
    assert checked > 100


def test_all_kinds_of_problem_come_up() -> None:
    words = ("extension of BC", "AB = AC", "parallel", "on circle", "diameter", "angle C = 90.0", "angle 1")
    for word in words:
        assert any(word in scene["problem"] for scene in SCENES), word
    assert len({scene["answer"] for scene in SCENES}) > 20


def test_pictures_are_dark_lines_on_white_and_nothing_is_cut_off() -> None:
    for scene in SCENES:
        picture = np.asarray(scene["image"])
        assert picture.shape == (128, 128, 3)
        assert (picture == 255).mean() > 0.75
        assert picture.min() < 110
        for x, y in scene["points"].values():
            assert 0 < x < 128
            assert 0 < y < 128


def test_the_drawing_differs_from_one_problem_to_the_next() -> None:
    assert len({scene["image"].tobytes() for scene in SCENES}) == len(SCENES)


@pytest.mark.parametrize(
    ("index", "split", "digest"),
    [
        (0, "train", "43f89e5e662f87ac56571af92db4a7666e89fcc68218f70ccb75e62533517bbd"),
        (1, "test", "ceef2aa92f6ab03218a5242458958d3d5f6e608fa797d463331eeb23ee4eed6d"),
    ],
)
def test_pixels_are_the_same_on_every_machine(index: int, split: str, digest: str) -> None:
    picture = geometry.scene(0, index, split, 128)["image"]
    assert hashlib.sha256(picture.tobytes()).hexdigest() == digest


def test_directions_come_from_a_table() -> None:
    assert [drawing.cos(degrees) for degrees in (0, 60, 90, 180, 300)] == [1.0, 0.5, 0.0, -1.0, 0.5]
    assert drawing.sin(30) == drawing.sin(-210) == 0.5
    assert drawing.cos(7) == pytest.approx(0.992546151641)
