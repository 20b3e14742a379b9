"""What is known of each accepted row but its picture, in a SQLite file: memory does not grow with the rows.

`settling` and `splitting` say in SQL what they look for. The file lives as long as one `prepare`.

| column of `rows` | what |
|---|---|
| number | in the order of reading, over all splits |
| split, position | where the row came from: its source's split, and its place among the accepted rows of it |
| place | the split it goes to; null: put aside or not sampled |
| sample_id, source, answer | as in the dataset |
| pixels, question | digests; two rows with the same two ask the same |
| width, height | of the picture, pixels |
| thumbnail | of the picture (`copies`) |

`findings` holds what is wrong with a row: split, position, reason, detail, and whether it `stays` all the same.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from othink_mr1.data.checks import Accepted
from othink_mr1.errors import UserError

_TABLES = """
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, split TEXT, position INTEGER, place TEXT, sample_id TEXT, source TEXT, answer TEXT,
    pixels TEXT, question TEXT, width INTEGER, height INTEGER, thumbnail BLOB
);
CREATE TABLE findings (
    split TEXT, position INTEGER, reason TEXT, detail TEXT, stays INTEGER, PRIMARY KEY (split, position)
) WITHOUT ROWID;
"""
_INDEXES = """
CREATE UNIQUE INDEX by_position ON rows (split, position);
CREATE INDEX by_content ON rows (pixels, question);
CREATE INDEX by_question ON rows (place, question);
"""
_AT_ONCE = 1000


class Finding(NamedTuple):
    """What is wrong with a row, seen beside the others."""

    split: str
    position: int
    reason: str
    detail: str
    stays: bool = False


class Index:
    """The tables, open. `add` every row, then `finish`, then ask."""

    def __init__(self, path: Path) -> None:
        # Scratch: nothing of it has to survive a crash, and sorting goes to files as well.
        self._connection = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE", "cache_size = -32000"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.executescript(_TABLES)
        self._connection.create_function("rank", -1, rank, deterministic=True)
        self._new: list[tuple[Any, ...]] = []

    def add(self, position: int, accepted: Accepted) -> None:
        """`position`: the row's place among the accepted rows of its split, from 0."""
        row = accepted.row
        question = hashlib.sha256(" ".join(row["problem"].split()).encode()).hexdigest()[:32]
        texts = (row["sample_id"], row["source"], row["answer"], accepted.pixels_sha256, question)
        self._new.append(
            (row["split"], position, row["split"], *texts, accepted.width, accepted.height, accepted.thumbnail)
        )
        if len(self._new) == _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self.many(f"INSERT INTO rows VALUES (NULL{', ?' * 11})", self._new)
        self._new = []

    def finish(self) -> None:
        """Every row is there."""
        self._flush()
        self._connection.executescript(_INDEXES)

    def ask(self, query: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(query, values)

    def count(self, place: str) -> int:
        """The rows that go to a split."""
        (number,) = self.ask("SELECT count(*) FROM rows WHERE place = ?", place).fetchone()
        return int(number)

    def many(self, statement: str, values: Iterable[tuple[Any, ...]]) -> None:
        self._connection.execute("BEGIN")
        self._connection.executemany(statement, values)
        self._connection.execute("COMMIT")

    def note(self, findings: Iterable[Finding]) -> None:
        """Keeps one finding a row, one for which it has to go before one with which it stays; sends the row nowhere."""
        findings = iter(findings)
        while some := list(islice(findings, _AT_ONCE)):
            self.many(
                "INSERT INTO findings VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET reason = excluded.reason, "
                "detail = excluded.detail, stays = excluded.stays WHERE findings.stays > excluded.stays",
                some,
            )
            gone = [(one.split, one.position) for one in some if not one.stays]
            self.many("UPDATE rows SET place = NULL WHERE split = ? AND position = ?", gone)

    def rows_of(self, split: str) -> Iterator[tuple[str | None, str | None, str | None]]:
        """(place, reason, detail) of each row that came from `split`, in the order of reading; reason: why it goes."""
        return self.ask(
            "SELECT place, reason, detail FROM rows "
            "LEFT JOIN findings AS f ON f.split = rows.split AND f.position = rows.position AND NOT stays "
            "WHERE rows.split = ? ORDER BY rows.position",
            split,
        )

    def reported(self, split: str) -> Iterator[tuple[str, str, str]]:
        """(source, reason, detail) of the rows from `split` that stay although something is wrong with them."""
        return self.ask(
            "SELECT source, reason, detail FROM findings JOIN rows USING (split, position) "
            "WHERE split = ? AND stays ORDER BY position",
            split,
        )

    def is_whole(self, split: str) -> bool:
        """Whether there are rows from `split`, all of them go there, and no others do."""
        here, elsewhere = self.ask(
            "SELECT total(split = place), total(split IS NOT place) FROM rows WHERE split = ?1 OR place = ?1", split
        ).fetchone()
        return bool(here and not elsewhere)

    def sizes(self, place: str) -> np.ndarray:
        """Width and height of the pictures that go to a split, in the order of its file: (rows, 2), int32."""
        found = self.ask("SELECT width, height FROM rows WHERE place = ? ORDER BY number", place)
        return np.fromiter((side for pair in found for side in pair), dtype=np.int32).reshape(-1, 2)

    def close(self) -> None:
        self._connection.close()


@contextmanager
def opened(path: Path) -> Iterator[Index]:
    """An empty index in a new file, which is gone at the end.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        index = Index(path)
        try:
            yield index
        finally:
            index.close()
            path.unlink(missing_ok=True)
    except sqlite3.OperationalError as error:
        raise UserError(f"{path}: cannot be written ({error})") from None


def rank(*parts: object) -> str:
    """A place in a random order that depends on nothing but `parts`."""
    return hashlib.sha256("\0".join(str(part) for part in parts).encode()).hexdigest()
