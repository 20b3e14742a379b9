"""Which rows go where, decided by their content alone: never by their order or by the machine."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from othink_mr1.data.checks import Entry


def _rank(*parts: object) -> str:
    return hashlib.sha256("\0".join(str(part) for part in parts).encode()).hexdigest()


def draw_validation(train: Sequence[Entry], fraction: float, seed: int) -> set[int]:
    """The positions of the train rows that become validation.

    At least one row, and at least one stays in train. Rows with the same picture go together, so that validation holds
    no picture that was trained on.
    """
    pictures: dict[str, list[int]] = defaultdict(list)
    for entry in train:
        pictures[entry.pixels_sha256].append(entry.position)
    wanted = max(1, math.floor(fraction * len(train) + 0.5))
    drawn: set[int] = set()
    for picture in sorted(pictures, key=lambda pixels: _rank("validation", seed, pixels))[:-1]:
        if len(drawn) >= wanted:
            break
        drawn.update(pictures[picture])
    return drawn


def few_shot(train: Sequence[Entry], samples: int | None, seed: int) -> set[int]:
    """The positions of `samples` train rows (all, if None or more than there are), each answer by its share.

    A larger number contains the smaller one: the rows of each answer are put in a random order and spread evenly over
    0 to 1, and the subset is everything below a line that rises with `samples`.
    """
    if samples is None:
        return {entry.position for entry in train}
    counts, seen = Counter(entry.answer for entry in train), Counter[str]()
    lines: list[tuple[float, str, int]] = []
    ranked = [(_rank("few-shot", seed, entry.sample_id), entry) for entry in train]
    for rank, entry in sorted(ranked, key=lambda pair: (pair[0], pair[1].position)):
        lines.append(((seen[entry.answer] + 0.5) / counts[entry.answer], rank, entry.position))
        seen[entry.answer] += 1
    return {position for _, _, position in sorted(lines)[:samples]}
