"""Counting scenes: the same pixels everywhere, and items that can be told apart."""

import hashlib
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from othink_mr1.data.synthetic import counting

SCENES = [counting.scene(3, index, split, 64) for split in ("train", "test") for index in range(150)]
TEST_SCENES = SCENES[150:]


def pixels(seed: int, index: int, split: str, image_size: int) -> str:
    return hashlib.sha256(counting.scene(seed, index, split, image_size)["image"].tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("index", "split", "image_size", "digest"),
    [
        (0, "train", 128, "b312e8c7a4e73c04211c6f8e081cb05c6a023ad5dcd55a4db7ad50cbe0fcf6b7"),
        (7, "test", 128, "8035357df1d0462568dacbdd679a2fbdfe8b958fa75c02502ebc221419bd9ea2"),
        (3, "pretrain", 64, "a6d962a36a4572fc2793428d750a1bd1c1fcdab4f702da10a5b66c3bfe4115d5"),
    ],
)
def test_pixels_are_the_same_on_every_machine(index: int, split: str, image_size: int, digest: str) -> None:
    assert pixels(0, index, split, image_size) == digest


def test_a_scene_does_not_depend_on_the_ones_drawn_before_it() -> None:
    here = pixels(1, 42, "train", 64)
    code = (
        "import hashlib; from othink_mr1.data.synthetic import counting; "
        "print(hashlib.sha256(counting.scene(1, 42, 'train', 64)['image'].tobytes()).hexdigest())"
    )
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert alone.stdout.strip() == here


def test_seed_index_and_split_each_make_another_scene() -> None:
    assert len({pixels(*key, 64) for key in [(0, 0, "train"), (1, 0, "train"), (0, 1, "train"), (0, 0, "test")]}) == 4


def test_counts_are_spread_over_one_to_nine() -> None:
    counts = Counter(scene["count"] for scene in SCENES)
    assert set(counts) == set(range(1, 10))
    assert max(counts.values()) < 3 * min(counts.values())


def test_answer_solution_and_thinking_say_the_same_number() -> None:
    for scene in SCENES:
        count = scene["count"]
        assert len(scene["items"]) == count
        assert scene["answer"] == str(count)
        assert scene["solution"] == f"<answer> {count} </answer>"
        assert scene["thinking"].split() == [str(number) for number in range(1, count + 1)]
        assert scene["problem"] in counting.QUESTIONS


def test_every_item_can_be_seen_whole() -> None:
    assert min(share for scene in SCENES for share in scene["visible"]) >= 0.95


def test_items_keep_their_distance_and_stay_in_the_picture() -> None:
    for scene in SCENES:
        circles = [item[2:] for item in scene["items"]]
        for number, (x, y, radius) in enumerate(circles):
            assert min(x, y, 64 - x, 64 - y) >= radius - 0.51
            for other_x, other_y, other_radius in circles[:number]:
                gap = math.hypot(x - other_x, y - other_y) - radius - other_radius
                assert gap >= 1.9  # pixels, at the 64 that a small model sees


def test_items_stand_out_from_the_ground_at_the_size_a_small_model_sees() -> None:
    for scene in SCENES:
        picture = np.asarray(scene["image"]).astype(int)
        ground = np.median(picture.reshape(-1, 3), axis=0)
        for _, _, x, y, radius in scene["items"]:
            reach = int(radius)
            window = picture[int(y) - reach : int(y) + reach + 1, int(x) - reach : int(x) + reach + 1]
            different = np.abs(window - ground).max(axis=2) > 50
            assert different.sum() >= 8


def test_new_shapes_and_colours_are_in_every_second_test_scene_and_nowhere_else() -> None:
    new = set(counting.NOVEL_SHAPES) | set(counting.NOVEL_COLOURS)
    for number, scene in enumerate(SCENES):
        looks = {look for item in scene["items"] for look in item[:2]}
        expected = number >= 150 and number % 2 == 1
        assert scene["novel"] == bool(looks & new) == expected
    assert new <= {look for scene in TEST_SCENES for item in scene["items"] for look in item[:2]}


def test_other_sizes_of_picture() -> None:
    assert counting.scene(0, 0, "train", 320)["image"].size == (320, 320)
    with pytest.raises(ValueError, match="image_size 32"):
        counting.scene(0, 0, "train", 32)


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="'dev'"):
        counting.scene(0, 0, "dev", 64)
