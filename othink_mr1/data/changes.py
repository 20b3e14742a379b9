"""What differs between two versions of a dataset, row by row, without reading any picture.

A row is known by its sample_id, which is made of its pixels, question and answer. So a row

- is **added** or **removed** where only one version has its id;
- is **changed** where both have it and its split, solution or thinking differ; and where a picture is still asked the
  same question and the answer is another one, which gives it another id.

Where a row stood in its source does not count: one new line would change all that follow it.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from othink_mr1.data.schema import SPLITS

_FIELDS = ("split", "solution", "thinking")
_COLUMNS = ("sample_id", "source", "problem", "answer", *_FIELDS)
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Change:
    """A row of both versions. `fields`: name to its value before and now."""

    sample_id: str
    source: str
    fields: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Changes:
    """The rows that differ, as the present version has them; a removed one as it was."""

    added: Rows
    removed: Rows
    changed: list[Change]
    before: dict[str, int]
    now: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read_rows(file: str | BinaryIO) -> Rows:
    """The rows of one split, without their pictures."""
    with pq.ParquetFile(file) as parquet:
        rows: Rows = parquet.read(columns=list(_COLUMNS)).to_pylist()
    return rows


def compare(before: Rows, now: Rows) -> Changes:
    """What it takes to get from one version's rows, of all splits, to the other's."""
    earlier = _pairs(before, now)
    kept = set(earlier.values())
    changed = (_change(before[earlier[number]], row) for number, row in enumerate(now) if number in earlier)
    return Changes(
        added=[row for number, row in enumerate(now) if number not in earlier],
        removed=[row for number, row in enumerate(before) if number not in kept],
        changed=[one for one in changed if one.fields],
        before=_counts(before),
        now=_counts(now),
    )


def _pairs(before: Rows, now: Rows) -> dict[int, int]:
    """The number of each row of now that was there before, and of the row that it was.

    An id may stand in two splits, and in a test set more than once: rows that are alike in more find each other first.
    """
    found: dict[int, int] = {}
    left = list(range(len(before)))
    for key in (_whole, _id_and_split, _id, _question_and_split, _question):
        known: dict[tuple[str, ...], deque[int]] = defaultdict(deque)
        for number in left:
            known[key(before[number])].append(number)
        for number, row in enumerate(now):
            if number not in found and (same := known.get(key(row))):
                found[number] = same.popleft()
        left = sorted(number for numbers in known.values() for number in numbers)
    return found


def _whole(row: Mapping[str, str]) -> tuple[str, ...]:
    return row["sample_id"], *(row[name] for name in _FIELDS)


def _id_and_split(row: Mapping[str, str]) -> tuple[str, ...]:
    return row["sample_id"], row["split"]


def _id(row: Mapping[str, str]) -> tuple[str, ...]:
    return (row["sample_id"],)


def _question_and_split(row: Mapping[str, str]) -> tuple[str, ...]:
    return *_question(row), row["split"]


def _question(row: Mapping[str, str]) -> tuple[str, ...]:
    """The picture, of which the first half of the id is made, and what is asked about it."""
    return row["sample_id"][:16], row["problem"]


def _change(before: Mapping[str, str], now: Mapping[str, str]) -> Change:
    fields = {name: (before[name], now[name]) for name in ("answer", *_FIELDS) if before[name] != now[name]}
    return Change(now["sample_id"], now["source"], fields)


def _counts(rows: Rows) -> dict[str, int]:
    counts = Counter(row["split"] for row in rows)
    return {split: counts[split] for split in SPLITS}
