"""From sources to checked splits: every row is read once, checked alone, then beside the others, then written.

Between reading and writing the pictures wait in files (`waiting`), and the rest of each row in an `Index`: memory holds
some hundred rows at a time, however many there are. Processes read, check and write; this one puts together what they
find.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from othink_mr1.data.checks import Accepted, Quarantined, examine, printable
from othink_mr1.data.closer_look import CloserLook
from othink_mr1.data.index import Index, opened
from othink_mr1.data.parallel import Progress, Workers
from othink_mr1.data.schema import QUARANTINE_SCHEMA, SPLITS, ParquetSink
from othink_mr1.data.settling import settle, settle_near
from othink_mr1.data.sources import Job, Request, Source, open_source
from othink_mr1.data.splitting import draw_validation, few_shot
from othink_mr1.data.waiting import Arrivals, Departures, waiting_room
from othink_mr1.data.writing import write_splits
from othink_mr1.errors import UserError
from othink_mr1.machine import cores

_FEW_ROWS = 200  # are done before other processes have started
_MOST_EXAMPLES = 100  # reported test rows that provenance.json lists one by one


@dataclass
class Split:
    """What became of one split's rows.

    read = rows + not_sampled + drawn + the sum of quarantined. A validation split that was drawn from train has read
    nothing: its rows count as `drawn` there.
    """

    source: str
    licence: str | None = None
    digest: str | None = None
    identity: str | None = None  # see `sources.Source`
    revision: str | None = None
    fetched: float | None = None  # Unix seconds when it came to lie on this machine; nothing that others read has it
    read: int = 0
    rows: int = 0
    drawn: int = 0  # train rows that became validation
    not_sampled: int = 0  # train rows that `train_samples` leaves out
    encoded_anew: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    example: str = ""  # the first quarantined row, in words
    reported: Counter[str] = field(default_factory=Counter)  # what is wrong with rows that stay
    reported_rows: list[dict[str, str]] = field(default_factory=list)  # the first of them: source, reason, detail

    def report(self, source: str, reason: str, detail: str) -> None:
        self.reported[reason] += 1
        if len(self.reported_rows) < _MOST_EXAMPLES:
            self.reported_rows.append({"source": source, "reason": reason, "detail": detail})


@dataclass(frozen=True)
class Prepared:
    """What `prepare` wrote into `folder`. `sizes`: a split's pictures, (rows, 2), width and height in pixels."""

    task: str
    folder: Path
    splits: dict[str, Split]
    sizes: dict[str, np.ndarray]


def prepare(
    task: str,
    settings: Mapping[str, Any],
    seed: int,
    paths: Mapping[str, Path],
    folder: Path,
    progress: Progress = lambda done, total, what: None,
) -> Prepared:
    """Writes the folders train, validation and test, quarantine.parquet and provenance.json into an empty `folder`.

    The files are a function of the settings, the seed and the content of the sources.

    Args:
        settings: `data.<task>` of the resolved parameters (fields: see `sources`).
        paths: "data.<task>.<split>" to the path of a source on this machine.
        progress: called with rows done, rows in all, and what is being done.

    Raises:
        UserError: a setting is wrong, a source cannot be read, or a split is left without rows.
    """
    fraction = settings["validation"].get("fraction")
    requests = {
        split: Request(task, split, settings[split], seed, paths.get(f"data.{task}.{split}"))
        for split in SPLITS
        if split != "validation" or fraction is None
    }
    sources = {split: open_source(request) for split, request in requests.items()}
    splits = {split: _split(requests[split], source) for split, source in sources.items()}
    _check_licences(task, splits, bool(settings.get("require_licence")))
    # Arrow's own allocator gives large blocks back to the kernel, which has to clear the same pages for the next ones.
    pa.set_memory_pool(pa.system_memory_pool())
    few = sum(source.rows for source in sources.values()) < _FEW_ROWS
    with (
        waiting_room(folder / "waiting") as waiting,
        opened(folder / "index.sqlite") as index,
        Workers(1 if few else cores()) as workers,  # they end first: none writes where the pictures waited
    ):
        with ParquetSink(folder / "quarantine.parquet", QUARANTINE_SCHEMA) as quarantine:
            _read_all(task, sources, splits, index, waiting, quarantine, workers, progress)
            progress(0, 1, f"holding {task} rows against each other")
            look = CloserLook(waiting, workers)
            settle(index, look, _same_content(splits))
            if fraction is not None:
                splits["validation"] = _drawn(splits["train"])
                draw_validation(index, fraction, seed)
                settle_near(index, look, "train", "validation")
            few_shot(index, settings.get("train_samples"), seed)
            _count_all(task, splits, index, waiting, quarantine)
        _refuse_holes(task, sources, splits, folder)
        shards = write_splits(
            task, {split: splits[split].rows for split in SPLITS}, index, waiting, folder, workers, progress
        )
    files = {shard.name: shard.sha256 for of_split in shards.values() for shard in of_split}
    files["quarantine.parquet"] = quarantine.sha256()
    _write_provenance(task, seed, settings, splits, files, folder)
    sizes = {split: np.concatenate([shard.sizes for shard in of_split]) for split, of_split in shards.items()}
    return Prepared(task, folder, {split: splits[split] for split in SPLITS}, sizes)


def _split(request: Request, source: Source) -> Split:
    licence = request.settings.get("licence") or source.licence
    fetched = source.fetched
    if fetched is None and request.path is not None and request.path.exists():
        fetched = request.path.stat().st_mtime
    return Split(source.name, licence, source.digest, source.identity, source.revision, fetched)


def _drawn(train: Split) -> Split:
    return Split("train", train.licence, train.digest, revision=train.revision, fetched=train.fetched)


def _check_licences(task: str, splits: Mapping[str, Split], required: bool) -> None:
    for split, found in splits.items():
        if found.licence is None:
            key = f"data.{task}.{split}"
            if required:
                raise UserError(
                    f"{key}: the licence of its source is not known, and data.{task}.require_licence is true; name it, "
                    f"as in {key}.licence=CC-BY-4.0"
                )
            print(f"{key}: warning: the licence of its source is not known; name it as its `licence`", file=sys.stderr)


def _same_content(splits: Mapping[str, Split]) -> set[tuple[str, str]]:
    """The pairs of splits that were given one and the same source: by what it is, not by where it lies."""
    known = {split: found.identity for split, found in splits.items() if found.identity is not None}
    return {(one, other) for one in known for other in known if one != other and known[one] == known[other]}


def _examine_rows(job: Job, task: str, waiting: Path) -> list[Accepted | Quarantined]:
    """Reads and checks the rows of a job. Their pictures wait; the rows say where."""
    results = []
    with closing(Arrivals(waiting)) as pictures:
        for raw in job():
            result = examine(raw, task)
            picture = result.row["image"]["bytes"]
            result.row["image"] = None if picture is None else pictures.add(picture)
            results.append(result)
    return results


def _read_all(
    task: str,
    sources: Mapping[str, Source],
    splits: Mapping[str, Split],
    index: Index,
    waiting: Path,
    quarantine: ParquetSink,
    workers: Workers,
    progress: Progress,
) -> None:
    """Every row by itself: accepted rows wait, the others are quarantined."""
    total, done = sum(source.rows for source in sources.values()), 0
    jobs = (job for source in sources.values() for job in source.jobs)
    with closing(Departures(waiting)) as pictures:
        for results in workers.map(partial(_examine_rows, task=task, waiting=waiting), jobs):
            for result in results:
                found = splits[result.row["split"]]
                if isinstance(result, Accepted):
                    index.add(found.read, result)
                    found.encoded_anew += result.encoded_anew
                    for reason, detail in result.reported:
                        found.report(result.row["source"], reason, detail)
                else:
                    _put_aside(found, quarantine, result.row, pictures)
                found.read += 1
            done += len(results)
            progress(done, total, f"reading and checking {task} rows")
    index.finish()
    for split, source in sources.items():
        if splits[split].read != source.rows:
            key = f"data.{task}.{split}"
            raise UserError(f"{key}: it changed while it was read (it had {source.rows} rows); run it again")


def _count_all(task: str, splits: Mapping[str, Split], index: Index, waiting: Path, quarantine: ParquetSink) -> None:
    """What became of the rows beside each other; those that have to go are quarantined."""
    with closing(Departures(waiting)) as pictures:
        for split, found in splits.items():
            for source, reason, detail in index.reported(split):
                found.report(source, reason, detail)
            for texts, place, reason, detail in index.rejected(split):
                why = {"task": task, "split": split, "reason": reason, "detail": printable(detail)}
                _put_aside(found, quarantine, {**texts, **why, "image": place}, pictures)
            moved = index.moved(split)
            found.drawn, found.not_sampled = moved.get("validation", 0), moved.get(None, 0)
            found.rows = index.count(split)


def _put_aside(found: Split, quarantine: ParquetSink, row: Mapping[str, Any], pictures: Departures) -> None:
    found.quarantined[row["reason"]] += 1
    found.example = found.example or f"{row['source']}: {row['reason']} ({row['detail']})"
    picture = None if row["image"] is None else pictures.get(row["image"])
    quarantine.write({**row, "image": {"bytes": picture, "path": None}})


def _refuse_holes(task: str, sources: Mapping[str, Source], splits: Mapping[str, Split], folder: Path) -> None:
    for split, found in splits.items():
        if not found.rows:
            raise UserError(_no_rows(task, split, found))
    if sources["test"].whole and splits["test"].quarantined:
        raise UserError(_with_holes(task, splits["test"], folder))


def _no_rows(task: str, split: str, found: Split) -> str:
    if not found.quarantined:
        return f"data.{task}.{split}: no row is left for it; give train at least two different pictures"
    return f"data.{task}.{split}: none of its {found.read} rows can be used; such as {found.example}"


def _with_holes(task: str, test: Split, folder: Path) -> str:
    rows = sum(test.quarantined.values())
    return (
        f"data.{task}.test: {rows} of its {test.read} rows cannot be asked, such as {test.example}; results of a "
        f"published test set count only if it is whole: mend them (all: {folder / 'quarantine.parquet'})"
    )


def _write_provenance(
    task: str,
    seed: int,
    settings: Mapping[str, Any],
    splits: Mapping[str, Split],
    files: Mapping[str, str],
    folder: Path,
) -> None:
    """What the data are and what was done to them. No times, no paths: other stages depend on this file."""
    provenance = {
        "task": task,
        "seed": seed,
        "train_samples": settings.get("train_samples"),
        "splits": {split: _told(settings[split], splits[split]) for split in SPLITS},
        "files": files,
    }
    text = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
    (folder / "provenance.json").write_text(text, encoding="utf-8")


def _told(settings: Mapping[str, Any], found: Split) -> dict[str, Any]:
    return {
        "source": dict(settings),
        "licence": found.licence or "unknown",
        "sha256": found.digest,
        "revision": found.revision,
        "read": found.read,
        "rows": found.rows,
        "drawn_for_validation": found.drawn,
        "not_sampled": found.not_sampled,
        "quarantined": dict(sorted(found.quarantined.items())),
        "reported": dict(sorted(found.reported.items())),
        "reported_rows": found.reported_rows,
        "changed": {"pictures encoded anew as RGB PNG": found.encoded_anew} if found.encoded_anew else {},
    }
