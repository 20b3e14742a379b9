"""What differs between two versions of a dataset, row by row, without reading any picture.

A row is known by its sample_id, which is made of its pixels, question and answer. So a row

- is **added** or **removed** where only one version has its id;
- is **changed** where both have it and its split, solution or thinking differ; and where a picture is still asked the
  same question and the answer is another one, which gives it another id.

Where a row stood in its source does not count: one new line would change all that follow it.
"""

from collections import Counter, defaultdict
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
    old, new = _by_id(before), _by_id(now)
    changed = [_change(old[key], new[key]) for key in new if key in old]
    removed, added = [old[key] for key in old if key not in new], [new[key] for key in new if key not in old]
    same_question: dict[tuple[str, str], Rows] = defaultdict(list)
    for row in removed:
        same_question[_question(row)].append(row)
    kept = []
    for row in added:
        if earlier := same_question.get(_question(row)):
            changed.append(_change(earlier.pop(0), row))
        else:
            kept.append(row)
    return Changes(
        added=kept,
        removed=[row for rows in same_question.values() for row in rows],
        changed=[one for one in changed if one.fields],
        before=_counts(before),
        now=_counts(now),
    )


def _by_id(rows: Rows) -> dict[tuple[str, int], dict[str, str]]:
    """A test set may hold a row twice: the second one is known as such."""
    seen: Counter[str] = Counter()
    found = {}
    for row in rows:
        found[row["sample_id"], seen[row["sample_id"]]] = row
        seen[row["sample_id"]] += 1
    return found


def _question(row: Mapping[str, str]) -> tuple[str, str]:
    """The picture, of which the first half of the id is made, and what is asked about it."""
    return row["sample_id"][:16], row["problem"]


def _change(before: Mapping[str, str], now: Mapping[str, str]) -> Change:
    fields = {name: (before[name], now[name]) for name in ("answer", *_FIELDS) if before[name] != now[name]}
    return Change(now["sample_id"], now["source"], fields)


def _counts(rows: Rows) -> dict[str, int]:
    counts = Counter(row["split"] for row in rows)
    return {split: counts[split] for split in SPLITS}
