"""Counting scenes in the manner of CLEVR: solids of two sizes on a softly lit ground, 1 to 9 of them.

The outlines never touch in the picture (`GAP`), so that the items can be told apart when the picture is shrunk to
64 x 64 pixels for the demo's model. Every second test scene is novel: it draws from two more shapes and two more
colours, which the other splits do not have, and at least one item has both.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from othink_mr1.data.solutions import solution_of
from othink_mr1.data.synthetic.randomness import scene_rng
from othink_mr1.data.synthetic.shapes import LIGHTS, SPAN, TURNS, Circle, outline, sprite

MOST_ITEMS = 9
GAP = 0.03  # least distance between two outlines, as a share of the picture's side
_EDGE = 0.02  # the same to the picture's edge
_RADIUS = {"large": 0.084, "small": 0.058}  # half the width of a solid, as a share of the picture's side

# The eight colours of CLEVR (clevr-dataset-gen, properties.json).
COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
USUAL_SHAPES, NOVEL_SHAPES = ("cube", "sphere", "cylinder"), ("cone", "torus")
USUAL_COLOURS, NOVEL_COLOURS = ("gray", "red", "blue", "green", "purple", "yellow"), ("brown", "cyan")

# How R1-V's train and test questions ask.
QUESTIONS = (
    "How many items are there in the image?",
    "How many different items are there in the image?",
    "How many objects are there in the image?",
)
_TASK_ID = 0


def enumeration(count: int) -> str:
    """The thinking text: `1 2 3` for three items."""
    return " ".join(str(number) for number in range(1, count + 1))


class _Item:
    """One solid: what it looks like, and (once placed) where; all lengths in whole pixels."""

    def __init__(self, shape: str, colour: str, metal: bool, turn: int) -> None:
        self.shape, self.colour, self.metal, self.turn = shape, colour, metal, turn
        self.left = self.top = self.px = 0
        self.x = self.y = self.radius = 0.0  # the circle about its outline


def _draw_items(rng: np.random.Generator, count: int, novel: bool) -> list[_Item]:
    shapes = USUAL_SHAPES + NOVEL_SHAPES if novel else USUAL_SHAPES
    colours = USUAL_COLOURS + NOVEL_COLOURS if novel else USUAL_COLOURS
    drawn = zip(
        rng.integers(len(shapes), size=count),
        rng.integers(len(colours), size=count),
        rng.integers(2, size=count),
        rng.integers(len(TURNS), size=count),
        strict=True,
    )
    items = [_Item(shapes[shape], colours[colour], bool(metal), int(turn)) for shape, colour, metal, turn in drawn]
    if novel:  # the first one is new in both ways, the others as it comes
        items[0].shape = NOVEL_SHAPES[int(rng.integers(len(NOVEL_SHAPES)))]
        items[0].colour = NOVEL_COLOURS[int(rng.integers(len(NOVEL_COLOURS)))]
    for item in items:
        item.turn = item.turn if item.shape == "cube" else 0
    return items


def _try_place(rng: np.random.Generator, item: _Item, size: str, placed: list[_Item], image_size: int) -> bool:
    """Puts `item` at the first of 48 random spots that is free; whether there was one."""
    circle: Circle = outline(item.shape, item.turn)
    for right, down in rng.random((48, 2)).tolist():
        # Nearer (lower in the picture) is larger, as in a photograph.
        px = max(8, round(SPAN * _RADIUS[size] * (0.86 + 0.28 * down) * image_size))
        scale = px / SPAN
        radius = circle.radius * scale
        room = image_size - 2 * (radius + _EDGE * image_size)
        x = radius + _EDGE * image_size + right * room
        y = radius + _EDGE * image_size + down * room
        left, top = round(x - circle.x * scale), round(y - circle.y * scale)
        x, y = left + circle.x * scale, top + circle.y * scale
        apart = GAP * image_size + radius
        if all((x - o.x) ** 2 + (y - o.y) ** 2 >= (apart + o.radius) ** 2 for o in placed):
            item.left, item.top, item.px, item.x, item.y, item.radius = left, top, px, x, y, radius
            return True
    return False


def _place(rng: np.random.Generator, items: list[_Item], image_size: int) -> list[_Item]:
    """Places all items without a touch, the last ones small where the room is short; from back to front."""
    while True:
        placed: list[_Item] = []
        for item, large in zip(items, rng.integers(2, size=len(items)), strict=True):
            sizes = ("large", "small") if large else ("small",)
            if not any(_try_place(rng, item, size, placed, image_size) for size in sizes):
                break
            placed.append(item)
        if len(placed) == len(items):
            return sorted(placed, key=lambda item: (item.y, item.x))


@lru_cache(maxsize=4)
def _grid(image_size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    steps = (np.arange(image_size, dtype=np.float32) + np.float32(0.5)) / np.float32(image_size)
    return steps[None, :, None], steps[:, None, None]


def _ground(rng: np.random.Generator, image_size: int) -> NDArray[np.float32]:
    """(image_size, image_size, 3) of a light grey ground with a pool of light on it, 0 to 255."""
    x, y = _grid(image_size)
    middle_x, middle_y, bright, tint = rng.random(4).astype(np.float32).tolist()
    dx, dy = x - np.float32(0.25 + 0.5 * middle_x), y - np.float32(0.2 + 0.5 * middle_y)
    pool = np.maximum(np.float32(1) - (dx * dx + dy * dy) * np.float32(0.9), np.float32(0))
    level = np.float32(128 + 22 * bright) + np.float32(44) * pool * pool + np.float32(8) * y
    return np.asarray(level * np.array([1.0 + 0.02 * tint, 1.0, 1.02 - 0.03 * tint], np.float32))


def _paint(rng: np.random.Generator, items: list[_Item], image_size: int) -> tuple[NDArray[np.uint8], list[float]]:
    """The picture, and for each item the share of its pixels that can be seen."""
    light = int(rng.integers(len(LIGHTS)))
    hues = rng.integers(92, 109, size=len(items)).tolist()
    # A frame as wide as the widest sprite spares every clipping at the edges.
    frame = max(item.px for item in items)
    canvas = np.zeros((image_size + 2 * frame, image_size + 2 * frame, 3), np.float32)
    canvas[frame:-frame, frame:-frame] = _ground(rng, image_size)
    owner = np.zeros(canvas.shape[:2], np.uint8)
    windows = [
        (slice(frame + o.top, frame + o.top + o.px), slice(frame + o.left, frame + o.left + o.px)) for o in items
    ]
    sprites = [sprite(o.shape, o.turn, o.metal, light, o.px) for o in items]
    for window, solid in zip(windows, sprites, strict=True):
        canvas[window] *= np.float32(1) - solid.shadow
    for number, (item, window, solid, hue) in enumerate(zip(items, windows, sprites, hues, strict=True), 1):
        colour = np.array(COLOURS[item.colour], np.float32) * np.float32(hue / 100)
        painted = np.minimum(solid.light * colour + solid.gloss * np.float32(255), np.float32(255))
        canvas[window] = canvas[window] * (np.float32(1) - solid.cover) + painted
        owner[window][solid.solid] = number
    picture = np.rint(np.clip(canvas[frame:-frame, frame:-frame], 0, 255)).astype(np.uint8)
    seen = np.bincount(owner[frame:-frame, frame:-frame].ravel(), minlength=len(items) + 1)[1:]
    return picture, [int(part) / int(whole.solid.sum()) for part, whole in zip(seen, sprites, strict=True)]


def scene(seed: int, index: int, split: str, image_size: int) -> dict[str, Any]:
    """Scene `index` of a split: the same pixels on every machine.

    Args:
        split: train, validation, test or pretrain; every second scene of `test` is novel (see the module).
        image_size: side of the square picture, pixels; at least 48.

    Returns:
        image (PIL, RGB), problem, answer, solution, thinking; count; novel (has shapes and colours of test alone);
        visible: for each item the share of its pixels that nothing covers; items: shape, colour, and the circle about
        it (x, y, radius in pixels).
    """
    if image_size < 48:
        raise ValueError(f"image_size {image_size} is under 48: the items could not be told apart")
    rng = scene_rng(_TASK_ID, seed, index, split)
    count = int(rng.integers(1, MOST_ITEMS + 1))
    question = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
    novel = split == "test" and index % 2 == 1
    items = _place(rng, _draw_items(rng, count, novel), image_size)
    picture, visible = _paint(rng, items, image_size)
    return {
        "image": Image.fromarray(picture),
        "problem": question,
        "answer": str(count),
        "solution": solution_of(str(count)),
        "thinking": enumeration(count),
        "count": count,
        "novel": novel,
        "visible": visible,
        "items": [(item.shape, item.colour, item.x, item.y, item.radius) for item in items],
    }
