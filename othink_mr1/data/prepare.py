"""From sources to checked splits: every row is read once, checked alone, then beside the others, then written.

Between the two passes the rows wait in files, and what the second one has to know of them in an `Index`: memory holds
some hundred rows at a time, however many there are.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from othink_mr1.data.checks import Accepted, Quarantined, examine, printable
from othink_mr1.data.index import Index, opened
from othink_mr1.data.parallel import ordered_map
from othink_mr1.data.schema import QUARANTINE_SCHEMA, SCHEMA, SPLITS, ParquetSink
from othink_mr1.data.settling import settle, settle_near
from othink_mr1.data.sources import Held, Job, Request, Source, open_source
from othink_mr1.data.splitting import draw_validation, few_shot
from othink_mr1.digests import file_digest
from othink_mr1.errors import UserError

Progress = Callable[[int, int, str], None]
_WAITING = "{split}.waiting.parquet"
_MOST_EXAMPLES = 100  # reported test rows that provenance.json lists one by one


@dataclass
class Split:
    """What became of one split's rows. read = rows + not_sampled + drawn + the sum of quarantined."""

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
    """Writes {train,validation,test,quarantine}.parquet and provenance.json of a task into an existing `folder`.

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
    with opened(folder / "index.sqlite") as index:
        with ParquetSink(folder / "quarantine.parquet", QUARANTINE_SCHEMA) as quarantine:
            _read_all(task, sources, splits, index, folder, quarantine, progress)
            settle(index, _same_content(splits))
            if fraction is not None:
                train = splits["train"]
                splits["validation"] = Split(
                    "train", train.licence, train.digest, revision=train.revision, fetched=train.fetched
                )
                draw_validation(index, fraction, seed)
                settle_near(index, "train", "validation")
            few_shot(index, settings.get("train_samples"), seed)
            _write_all(splits, index, folder, quarantine)
        sizes = {split: index.sizes(split) for split in SPLITS}
    for split, found in splits.items():
        (folder / _WAITING.format(split=split)).unlink(missing_ok=True)
        if not found.rows:
            raise UserError(_no_rows(task, split, found))
    if sources["test"].whole and splits["test"].quarantined:
        raise UserError(_with_holes(task, splits["test"], folder))
    _write_provenance(task, seed, settings, splits, folder)
    return Prepared(task, folder, {split: splits[split] for split in SPLITS}, sizes)


def _split(request: Request, source: Source) -> Split:
    licence = request.settings.get("licence") or source.licence
    fetched = source.fetched
    if fetched is None and request.path is not None and request.path.exists():
        fetched = request.path.stat().st_mtime
    return Split(source.name, licence, source.digest, source.identity, source.revision, fetched)


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


def _examine_job(job: Job, task: str) -> Accepted | Quarantined:
    """A row's checks, in a worker. A picture that the job holds is left out of the result: `_examined` has it."""
    raw = job()
    result = examine(raw, task)
    if isinstance(job, Held) and raw.picture is not None and result.row["image"]["bytes"] is raw.picture:
        result.row["image"] = None
    return result


def _examined(jobs: Iterator[Job], task: str, expected: int) -> Iterator[Accepted | Quarantined]:
    ahead, behind = tee(jobs)  # the jobs between the two are those that are being done
    for result in ordered_map(partial(_examine_job, task=task), ahead, expected=expected):
        job = next(behind)
        if result.row["image"] is None:
            result.row["image"] = {"bytes": job().picture, "path": None}
        yield result


def _read_all(
    task: str,
    sources: Mapping[str, Source],
    splits: dict[str, Split],
    index: Index,
    folder: Path,
    quarantine: ParquetSink,
    progress: Progress,
) -> None:
    """First pass: every row by itself. Accepted rows wait in a file, the others are quarantined."""
    total, done = sum(source.rows for source in sources.values()), 0
    jobs = (job for split, source in sources.items() for job in _jobs(f"data.{task}.{split}", source))
    results = _examined(jobs, task, total)
    for split, source in sources.items():
        found = splits[split]
        with ParquetSink(folder / _WAITING.format(split=split), SCHEMA) as waiting:
            for _, result in zip(range(source.rows), results, strict=False):
                found.read += 1
                if isinstance(result, Accepted):
                    index.add(waiting.rows, result)
                    waiting.write(result.row)
                    found.encoded_anew += result.encoded_anew
                    for reason, detail in result.reported:
                        found.report(result.row["source"], reason, detail)
                else:
                    _put_aside(found, quarantine, result.row)
                done += 1
                progress(done, total, f"reading and checking {task} rows")
    index.finish()


def _jobs(key: str, source: Source) -> Iterator[Job]:
    """As many as the source said: one more or less, and rows would be taken for those of the next split."""
    number = 0
    for number, job in enumerate(source.jobs, 1):
        if number > source.rows:
            break
        yield job
    if number != source.rows:
        raise UserError(f"{key}: it changed while it was read (it had {source.rows} rows); run it again")


def _write_all(splits: dict[str, Split], index: Index, folder: Path, quarantine: ParquetSink) -> None:
    """Second pass: the rows that wait go to the split they are for, or to quarantine.

    A file from which no row goes and to which none comes is the split's already.
    """
    for split, found in splits.items():
        for row_source, complaint, more in index.reported(split):
            found.report(row_source, complaint, more)
    whole = {split for split in splits if index.is_whole(split)}
    for split in whole:
        splits[split].rows = index.count(split)
        (folder / _WAITING.format(split=split)).rename(folder / f"{split}.parquet")
    with ExitStack() as stack:
        sinks = {
            split: stack.enter_context(ParquetSink(folder / f"{split}.parquet", SCHEMA))
            for split in SPLITS
            if split not in whole
        }
        for split, found in splits.items():
            waiting = _waiting(folder / _WAITING.format(split=split))
            for row, (place, reason, detail) in zip(waiting, index.rows_of(split), strict=split not in whole):
                if reason:
                    same = {name: row[name] for name in ("task", "split", "source", "image", "problem", "answer")}
                    _put_aside(found, quarantine, {**same, "reason": reason, "detail": printable(detail)})
                elif place is None:
                    found.not_sampled += 1
                else:
                    found.drawn += place != split
                    splits[place].rows += 1
                    sinks[place].write({**row, "split": place})


def _waiting(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():  # not there: a whole file, or a validation split that is drawn from train
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_pylist()


def _put_aside(found: Split, quarantine: ParquetSink, row: Mapping[str, Any]) -> None:
    found.quarantined[row["reason"]] += 1
    found.example = found.example or f"{row['source']}: {row['reason']} ({row['detail']})"
    quarantine.write(row)


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
    task: str, seed: int, settings: Mapping[str, Any], splits: Mapping[str, Split], folder: Path
) -> None:
    """What the data are and what was done to them. No times, no paths: other stages depend on this file."""
    files = [f"{name}.parquet" for name in (*SPLITS, "quarantine")]
    provenance = {
        "task": task,
        "seed": seed,
        "train_samples": settings.get("train_samples"),
        "splits": {split: _told(settings[split], splits[split]) for split in SPLITS},
        "files": {name: file_digest(folder / name) for name in files},
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
