"""Copies of pictures are found, different pictures are not: 22 ways to copy, a thousand scenes."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from makers import drawing, encoded, plain
from PIL import Image, ImageDraw

from othink_mr1.data.copies import Pictures, close_size, closely, known_by, same_drawing, similar, thumbnail
from othink_mr1.data.synthetic import counting, geometry

SCENES = {"counting": counting.scene, "geometry": geometry.scene}
# Box leaves steps where the ratio is not whole: that is for half and double alone.
SMOOTH = ("BILINEAR", "BICUBIC", "LANCZOS")
FILTERS = {0.5: ("BOX", *SMOOTH), 0.75: SMOOTH, 1.5: SMOOTH, 2: ("BOX", *SMOOTH)}

Copy = Callable[[Image.Image], bytes]


def scaled(picture: Image.Image, by: float, how: Image.Resampling) -> Image.Image:
    return picture.resize((round(picture.width * by), round(picture.height * by)), how)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    return encoded(picture, "JPEG", quality=quality)


def _scaled_jpeg(picture: Image.Image, by: float, quality: int) -> bytes:
    return _jpeg(scaled(picture, by, Image.Resampling.BICUBIC), quality)


def _scaled_png(picture: Image.Image, by: float, how: Image.Resampling) -> bytes:
    return encoded(scaled(picture, by, how))


COPIES: dict[str, Copy] = {
    **{f"jpeg {quality}": partial(_jpeg, quality=quality) for quality in (95, 85, 75, 65, 50)},
    **{
        f"{by} {name}": partial(_scaled_png, by=by, how=Image.Resampling[name])
        for by, names in FILTERS.items()
        for name in names
    },
    **{f"{by} jpeg 50": partial(_scaled_jpeg, by=by, quality=50) for by in (0.5, 2)},
    "webp 50": partial(encoded, kind="WEBP", quality=50),
}


def known(pictures: list[Image.Image]) -> Pictures:
    thumbnails = np.stack([np.frombuffer(thumbnail(picture), dtype=np.uint8) for picture in pictures])
    return known_by(thumbnails, np.array([min(picture.size) for picture in pictures], dtype=np.int32))


def drawn_alike(one: Image.Image, other: Image.Image) -> bool:
    size = close_size(one.size, other.size)
    return same_drawing(closely(one, size), closely(other, size))


def near_copies(pictures: list[Image.Image], others: list[Image.Image]) -> dict[int, int]:
    """The pictures that are copies of some other, each with the first of these."""
    found: dict[int, int] = {}
    for number, like in similar(known(pictures), known(others)).items():
        same = [other for other in like if drawn_alike(pictures[number], others[other])]
        found |= {number: same[0]} if same else {}
    return found


def read(encoded_picture: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded_picture)).convert("RGB")


def scenes(task: str, count: int, size: int, split: str = "train") -> list[Image.Image]:
    return [SCENES[task](0, index, split, size)["image"] for index in range(count)]


@pytest.mark.parametrize("size", [64, 128, 300])
@pytest.mark.parametrize("task", list(SCENES))
def test_every_copy_of_a_scene_is_found_and_points_to_its_own_scene(task: str, size: int) -> None:
    pictures = scenes(task, 25, size)
    for name, copy in COPIES.items():
        found = near_copies([read(copy(picture)) for picture in pictures], pictures)
        assert found == {index: index for index in range(len(pictures))}, name


def test_an_item_of_another_colour_makes_another_picture() -> None:
    """The colours have the same grey. A copy without colours is a copy all the same."""

    def scene(colour: tuple[int, int, int]) -> Image.Image:
        picture = Image.new("RGB", (320, 240), (180, 180, 175))
        ImageDraw.Draw(picture).ellipse((60, 60, 110, 110), fill=colour)
        ImageDraw.Draw(picture).ellipse((180, 100, 240, 160), fill=(40, 110, 200))
        return picture

    red, green = scene((200, 60, 60)), scene((20, 143, 40))
    assert similar(known([green]), known([red])) == {0: [0]}
    assert near_copies([green], [red]) == {}
    assert near_copies([red.convert("L").convert("RGB")], [red]) == {0: 0}
    assert near_copies([read(_scaled_jpeg(green, 0.5, 50))], [red, green]) == {0: 1}


def test_a_copy_is_found_among_many_that_are_alike_at_first_sight() -> None:
    drawings = [drawing(str(number)) for number in range(10, 60)]
    copies = [read(_jpeg(picture, 60)) for picture in drawings]
    assert max(map(len, similar(known(copies), known(drawings)).values())) > 10
    assert near_copies(copies, drawings) == {number: number for number in range(len(drawings))}


def square(half: int, size: int) -> Image.Image:
    """A square in the middle: most coefficients of so symmetric a drawing are alike."""
    picture = Image.new("RGB", (size, size), "white")
    corners = (size // 2 - half, size // 2 - half, size // 2 + half - 1, size // 2 + half - 1)
    ImageDraw.Draw(picture).rectangle(corners, outline="black", width=3)
    return picture


@pytest.mark.parametrize("size", [96, 200])
def test_every_copy_of_a_symmetric_drawing_is_found(size: int) -> None:
    pictures = [square(half, size) for half in range(size // 6, size // 2 - 5, 3)]
    for name in ("jpeg 75", "jpeg 50", "webp 50", "0.75 LANCZOS", "1.5 LANCZOS"):
        found = near_copies([read(COPIES[name](picture)) for picture in pictures], pictures)
        assert set(found) == set(range(len(pictures))), name


def test_no_processor_sees_other_copies() -> None:
    """OpenBLAS sums in another order on each kind."""
    program = (
        "import hashlib, numpy as np; from othink_mr1.data.copies import known_by; "
        "some = np.random.default_rng(0).integers(0, 256, (300, 2304), dtype=np.uint8); "
        "known = known_by(np.concatenate([some, (some | some[:, ::-1])]), np.full(600, 100, np.int32)); "
        "print(hashlib.sha256(known.signs.tobytes() + known.coarse.tobytes()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "OPENBLAS_CORETYPE": kind},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for kind in ("Haswell", "Sandybridge")
    }
    assert len(seen) == 1


@pytest.mark.parametrize("task", list(SCENES))
def test_a_thousand_different_scenes_raise_at_most_one_alarm(task: str) -> None:
    """Each is held against the scenes of a test split that ask the same, many on the very same background."""
    train, test = (
        [SCENES[task](0, index, split, 128) for index in range(n)] for split, n in (("train", 1000), ("test", 400))
    )
    alarms = 0
    for question in {scene["problem"] for scene in test}:
        rows, others = ([scene["image"] for scene in some if scene["problem"] == question] for some in (train, test))
        alarms += len(near_copies(rows, others)) if rows else 0
    assert alarms <= 1


def test_pictures_with_little_or_nothing_in_them_are_no_copies_of_each_other() -> None:
    colours = [plain(number) for number in range(40)]
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)) for _ in range(200)]
    for pictures in (colours, noise):
        half = len(pictures) // 2
        assert near_copies(pictures[:half], pictures[half:]) == {}
    assert near_copies(noise[:3], noise) == {0: 0, 1: 1, 2: 2}


def test_a_scene_with_one_item_moved_is_another_scene() -> None:
    rng = np.random.default_rng(0)
    before = Image.fromarray(rng.integers(90, 160, (12, 18, 3), dtype=np.uint8)).resize(
        (480, 320), Image.Resampling.BICUBIC
    )
    item, after = Image.new("RGB", (40, 40), (20, 20, 20)), before.copy()
    before.paste(item, (100, 100))
    after.paste(item, (180, 100))
    assert near_copies([after], [before]) == {}


def test_the_first_of_several_is_named() -> None:
    (picture,) = scenes("counting", 1, 128)
    assert near_copies([picture], [plain(3), picture, picture]) == {0: 1}


def test_a_number_that_no_thumbnail_shows_makes_another_drawing() -> None:
    before, after = drawing("60"), drawing("50")
    assert similar(known([after]), known([before])) == {0: [0]}
    assert near_copies([after], [before]) == {}
    assert near_copies([read(_scaled_jpeg(after, 0.7, 60))], [before, after]) == {0: 1}
