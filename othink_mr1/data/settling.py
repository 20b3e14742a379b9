"""The rows beside each other: repeats within a split, and rows that leak from one split into another.

Test is the one that stays whole: what is in test too leaves validation and train, what is in validation too leaves
train. Two rows ask the same if they have the same words, whatever the space between them, and the same pixels; between
splits a near copy of the picture (`copies`) is enough.
"""

from collections.abc import Container, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np

from othink_mr1.data.closer_look import CloserLook, Kept, Likeness
from othink_mr1.data.copies import SIDE, Pictures, known_by, similar
from othink_mr1.data.index import Finding, Index
from othink_mr1.data.waiting import Place

_BLOCK = 1024  # thumbnails held at a time, of each of two splits


class Entry(NamedTuple):
    """A row, as far as it counts here."""

    asks: str
    split: str
    position: int
    answer: str
    source: str


def settle(index: Index, look: CloserLook, same_content: Container[tuple[str, str]] = ()) -> None:
    """Notes repeats and conflicts within a split, and leaks between the splits that were given.

    Args:
        same_content: pairs such as ("train", "test") that were given the very same data on purpose, for which nothing
            would be left: their rows stay, and each is reported.
    """
    entries = map(
        Entry._make,
        index.ask(
            "SELECT pixels || question, split, position, answer, source FROM rows "
            "JOIN (SELECT pixels, question FROM rows GROUP BY pixels, question HAVING count(*) > 1) "
            "USING (pixels, question) "
            "ORDER BY pixels, question, CASE split WHEN 'test' THEN 0 WHEN 'validation' THEN 1 ELSE 2 END, position"
        ),
    )
    index.note(find_repeats(entries, same_content))
    for split, against in (("validation", "test"), ("train", "test"), ("train", "validation")):
        settle_near(index, look, split, against, stays=(split, against) in same_content)


def find_repeats(entries: Iterable[Entry], same_content: Container[tuple[str, str]] = ()) -> Iterator[Finding]:
    """Only the first row of a repeat stays; where the same question has several answers none does, but in test.

    Args:
        entries: those that ask the same one after the other; of these test first, validation next, train last.
    """
    for _, group in groupby(entries, key=lambda entry: entry.asks):
        before: Entry | None = None
        for split, same in groupby(group, key=lambda entry: entry.split):
            found = list(same)
            if before is not None:
                leak = (f"leaks_from_{before.split}", f"it is {before.source}", (split, before.split) in same_content)
                yield from (Finding(split, entry.position, *leak) for entry in found)
                continue
            before = found[0]
            if len({entry.answer for entry in found}) > 1:
                answers = ", ".join(sorted({ascii(entry.answer)[:30] for entry in found})[:5])
                conflict = ("conflict", f"the same picture and question with {answers}", split == "test")
                yield from (Finding(split, entry.position, *conflict) for entry in found)
            else:
                repeat = ("duplicate", f"of {before.source}", split == "test")
                yield from (Finding(split, entry.position, *repeat) for entry in found[1:])


def settle_near(index: Index, look: CloserLook, split: str, against: str, stays: bool = False) -> None:
    """Notes the rows on their way to `split` whose picture is a near copy of one in `against`, asked the same."""
    questions = index.ask(
        "SELECT question FROM rows WHERE place = ? INTERSECT SELECT question FROM rows WHERE place = ?", split, against
    )
    for (question,) in questions.fetchall():
        for others in _blocks(index, against, question):
            known = _pictures(others)
            for rows in _blocks(index, split, question):
                index.note(
                    Finding(
                        split=row.split,
                        position=row.position,
                        reason=f"leaks_from_{against}",
                        detail=f"its picture is a near copy of that of {other.source}",
                        stays=stays,
                    )
                    for row, other in _copies(rows, _pictures(rows), others, known, look)
                )


def _copies(
    rows: list["_Row"], pictures: Pictures, others: list["_Row"], known: Pictures, look: CloserLook
) -> Iterator[tuple["_Row", "_Row"]]:
    found = similar(pictures, known)
    likenesses = (Likeness(rows[row].picture, [others[other].picture for other in like]) for row, like in found.items())
    for (row, like), first in zip(found.items(), look.first_copies(likenesses), strict=True):
        if first is not None:
            yield rows[row], others[like[first]]


class _Row(NamedTuple):
    number: int
    split: str
    position: int
    source: str
    width: int
    height: int
    thumbnail: bytes
    file: str
    start: int
    length: int

    @property
    def picture(self) -> Kept:
        return Kept(Place(self.file, self.start, self.length), (self.width, self.height))


def _blocks(index: Index, place: str, question: str) -> Iterator[list[_Row]]:
    """The rows with a question that go to a split, some at a time: what is noted of one block is true for the next."""
    last = 0
    while block := index.ask(
        "SELECT number, split, position, source, width, height, thumbnail, file, start, length "
        "FROM rows WHERE place = ? AND question = ? AND number > ? ORDER BY number LIMIT ?",
        *(place, question, last, _BLOCK),
    ).fetchall():
        yield [_Row._make(row) for row in block]
        last = block[-1][0]


def _pictures(block: list[_Row]) -> Pictures:
    thumbnails = np.frombuffer(b"".join(row.thumbnail for row in block), dtype=np.uint8)
    return known_by(
        thumbnails.reshape(-1, SIDE * SIDE), np.array([min(row.width, row.height) for row in block], dtype=np.int32)
    )
