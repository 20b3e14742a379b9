"""Each accepted row but its picture, in a SQLite file: memory does not grow with the rows.

`settling` and `splitting` say in SQL what they look for. The file lives as long as one `prepare`.

| column of `rows` | what |
|---|---|
| number | in the order of reading, over all splits |
| split, position | where the row came from: its source's split, and its place among the rows of it |
| place | the split it goes to; null: put aside or not sampled |
| sample_id, source, problem, answer, thinking | as in the dataset |
| pixels, question | digests; two rows with the same two ask the same |
| width, height | of the picture, pixels |
| thumbnail | of the picture (`copies`) |
| file, start, length | where the picture waits (`waiting.Place`) |

`findings` holds what is wrong with a row: split, position, reason, detail, and whether it `stays` all the same.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from othink_mr1.data.checks import Accepted
from othink_mr1.data.solutions import solution_of
from othink_mr1.data.waiting import Place
from othink_mr1.errors import UserError

_TABLES = """
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, split TEXT, position INTEGER, place TEXT, sample_id TEXT, source TEXT, problem TEXT,
    answer TEXT, thinking TEXT, pixels TEXT, question TEXT, width INTEGER, height INTEGER, file TEXT, start INTEGER,
    length INTEGER, thumbnail BLOB
);
CREATE TABLE findings (
    split TEXT, position INTEGER, reason TEXT, detail TEXT, stays INTEGER, PRIMARY KEY (split, position)
) WITHOUT ROWID;
"""
_INDEXES = """
CREATE UNIQUE INDEX by_position ON rows (split, position);
CREATE INDEX by_content ON rows (pixels, question);
CREATE INDEX by_question ON rows (place, question);
CREATE INDEX by_shard ON rows (place, sample_id);
"""
_TEXTS = ("sample_id", "source", "problem", "answer", "thinking")
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
        self.path = path
        # Scratch: nothing of it has to survive a crash, and sorting goes to files as well.
        self._connection = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE", "cache_size = -32000"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.executescript(_TABLES)
        self._connection.create_function("rank", -1, rank, deterministic=True)
        self._connection.create_function("share", -1, share, deterministic=True)
        self._new: list[tuple[Any, ...]] = []

    def add(self, position: int, accepted: Accepted) -> None:
        """`position`: the row's place among the rows read of its split, from 0. Its picture is a `Place`."""
        row = accepted.row
        question = hashlib.sha256(" ".join(row["problem"].split()).encode()).hexdigest()[:32]
        texts = (*(row[name] for name in _TEXTS), accepted.pixels_sha256, question)
        known = (accepted.width, accepted.height, *row["image"], accepted.thumbnail)
        self._new.append((row["split"], position, row["split"], *texts, *known))
        if len(self._new) == _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self.many(f"INSERT INTO rows VALUES (NULL{', ?' * 16})", self._new)
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

    def rejected(self, split: str) -> Iterator[tuple[dict[str, str], Place, str, str]]:
        """The rows from `split` that have to go, in the order of reading: texts, picture, reason, detail."""
        found = self.ask(
            "SELECT source, problem, answer, file, start, length, reason, detail "
            "FROM findings JOIN rows USING (split, position) WHERE split = ? AND NOT stays ORDER BY position",
            split,
        )
        for source, problem, answer, *picture, reason, detail in found:
            yield {"source": source, "problem": problem, "answer": answer}, Place(*picture), reason, detail

    def reported(self, split: str) -> Iterator[tuple[str, str, str]]:
        """(source, reason, detail) of the rows from `split` that stay although something is wrong with them."""
        return self.ask(
            "SELECT source, reason, detail FROM findings JOIN rows USING (split, position) "
            "WHERE split = ? AND stays ORDER BY position",
            split,
        )

    def moved(self, split: str) -> dict[str | None, int]:
        """How many rows from `split` go elsewhere, by where; None: nowhere, though nothing is wrong with them."""
        return dict(
            self.ask(
                "SELECT place, count(*) FROM rows LEFT JOIN findings AS f "
                "ON f.split = rows.split AND f.position = rows.position AND NOT stays "
                "WHERE rows.split = ? AND place IS NOT rows.split AND reason IS NULL GROUP BY place",
                split,
            )
        )

    def close(self) -> None:
        self._connection.close()


def rows_between(
    path: Path, place: str, first_id: str, beyond_id: str
) -> Iterator[tuple[dict[str, str], Place, tuple[int, int]]]:
    """The rows of an index's file that go to a split and have these sample_ids: texts, picture, width and height.

    They come in the order of reading. For other processes than the one that has the index open.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        query = (
            f"SELECT {', '.join(_TEXTS)}, file, start, length, width, height FROM rows "
            "WHERE place = ? AND sample_id >= ? AND sample_id < ? ORDER BY number"
        )
        for *texts, file, start, length, width, height in connection.execute(query, (place, first_id, beyond_id)):
            row = dict(zip(_TEXTS, texts, strict=True))
            row["solution"] = solution_of(row["answer"])
            yield row, Place(file, start, length), (width, height)


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


def share(*parts: object) -> float:
    """A random number, 0 to 1, that depends on nothing but `parts`."""
    return int(rank(*parts)[:12], 16) / 16**12
