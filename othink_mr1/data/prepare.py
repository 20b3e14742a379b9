"""From sources to checked splits: every row is read once, checked alone, then beside the others, then written.

Rows wait in a file between the two passes, so that memory holds a few hundred bytes a row and no pictures.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from othink_mr1.data.checks import Accepted, Entry, Quarantined, Verdict, examine, printable, settle
from othink_mr1.data.parallel import ordered_map
from othink_mr1.data.schema import QUARANTINE_SCHEMA, SCHEMA, SPLITS, ParquetSink
from othink_mr1.data.sources import Job, Request, Source, open_source
from othink_mr1.data.splitting import draw_validation, few_shot
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
    read: int = 0
    rows: int = 0
    drawn: int = 0  # train rows that became validation
    not_sampled: int = 0  # train rows that `train_samples` leaves out
    encoded_anew: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    example: str = ""  # the first quarantined row, in words
    reported: list[tuple[str, str, str]] = field(default_factory=list)  # (source, reason, detail) of rows that stay
    entries: list[Entry] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # of the accepted rows' pictures, pixels


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
    splits = {
        split: Split(source.name, source.licence, source.digest, source.identity) for split, source in sources.items()
    }
    with ParquetSink(folder / "quarantine.parquet", QUARANTINE_SCHEMA) as quarantine:
        _read_all(task, sources, splits, folder, quarantine, progress)
        verdict = settle({split: found.entries for split, found in splits.items()}, _same_content(splits))
        if fraction is not None:
            splits["validation"] = Split("train", splits["train"].licence, splits["train"].digest)
        targets = _targets(splits["train"], verdict, fraction, settings.get("train_samples"), seed)
        sizes = _write_all(splits, targets, verdict, folder, quarantine)
    for split, found in splits.items():
        (folder / _WAITING.format(split=split)).unlink(missing_ok=True)
        if not found.rows:
            raise UserError(_no_rows(task, split, found))
    _write_provenance(task, seed, settings, splits, folder)
    return Prepared(task, folder, {split: splits[split] for split in SPLITS}, sizes)


def _same_content(splits: Mapping[str, Split]) -> set[tuple[str, str]]:
    """The pairs of splits that were given one and the same source: by what it is, not by where it lies."""
    known = {split: found.identity for split, found in splits.items() if found.identity is not None}
    return {(one, other) for one in known for other in known if one != other and known[one] == known[other]}


def _examine_job(job: Job, task: str) -> Accepted | Quarantined:
    return examine(job(), task)


def _read_all(
    task: str,
    sources: Mapping[str, Source],
    splits: dict[str, Split],
    folder: Path,
    quarantine: ParquetSink,
    progress: Progress,
) -> None:
    """First pass: every row by itself. Accepted rows wait in a file, the others are quarantined."""
    total, done = sum(source.rows for source in sources.values()), 0
    jobs = (job for source in sources.values() for job in source.jobs)
    results = ordered_map(partial(_examine_job, task=task), jobs, expected=total)
    for split, source in sources.items():
        found = splits[split]
        with ParquetSink(folder / _WAITING.format(split=split), SCHEMA) as waiting:
            for _, result in zip(range(source.rows), results, strict=False):
                found.read += 1
                if isinstance(result, Accepted):
                    _take(found, result)
                    waiting.write(result.row)
                else:
                    _put_aside(found, quarantine, result.row)
                done += 1
                progress(done, total, f"reading and checking {task} rows")


def _take(found: Split, accepted: Accepted) -> None:
    row = accepted.row
    texts = {name: row[name] for name in ("split", "sample_id", "problem", "answer", "source")}
    found.entries.append(Entry(position=len(found.entries), pixels_sha256=accepted.pixels_sha256, **texts))
    found.sizes.append((accepted.width, accepted.height))
    found.encoded_anew += accepted.encoded_anew
    found.reported += [(row["source"], reason, detail) for reason, detail in accepted.reported]


def _targets(train: Split, verdict: Verdict, fraction: float | None, samples: int | None, seed: int) -> dict[int, str]:
    """Where the train rows that are left after the checks go: "train" or "validation"; the others are not sampled."""
    left = [entry for entry in train.entries if ("train", entry.position) not in verdict.rejected]
    drawn = draw_validation(left, fraction, seed) if fraction is not None and left else set()
    kept = few_shot([entry for entry in left if entry.position not in drawn], samples, seed)
    return {**dict.fromkeys(kept, "train"), **dict.fromkeys(drawn, "validation")}


def _write_all(
    splits: dict[str, Split],
    targets: Mapping[int, str],
    verdict: Verdict,
    folder: Path,
    quarantine: ParquetSink,
) -> dict[str, np.ndarray]:
    """Second pass: the rows that wait go to the split they are for, or to quarantine.

    Returns:
        The sizes of the pictures written, as in `Prepared`.
    """
    sizes: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
    sinks = {split: ParquetSink(folder / f"{split}.parquet", SCHEMA) for split in SPLITS}
    for split, found in list(splits.items()):
        for position, row in enumerate(_waiting(folder / _WAITING.format(split=split))):
            why = verdict.rejected.get((split, position))
            if why is not None:
                same = {name: row[name] for name in ("task", "split", "source", "image", "problem", "answer")}
                _put_aside(found, quarantine, {**same, "reason": why[0], "detail": printable(why[1])})
                continue
            if (split, position) in verdict.reported:
                found.reported.append((row["source"], *verdict.reported[split, position]))
            target = targets.get(position) if split == "train" else split
            if target is None:
                found.not_sampled += 1
                continue
            found.drawn += target != split
            splits[target].rows += 1
            sinks[target].write({**row, "split": target})
            sizes[target].append(found.sizes[position])
    for sink in sinks.values():
        sink.close()
    return {split: np.array(pairs, dtype=np.int32).reshape(-1, 2) for split, pairs in sizes.items()}


def _waiting(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():  # a validation split that is drawn from train has no rows of its own
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(256):
                yield from batch.to_pylist()


def _put_aside(found: Split, quarantine: ParquetSink, row: Mapping[str, Any]) -> None:
    found.quarantined[row["reason"]] += 1
    found.example = found.example or f"{row['source']}: {row['reason']} ({row['detail']})"
    quarantine.write(row)


def _no_rows(task: str, split: str, found: Split) -> str:
    if not found.quarantined:
        return f"data.{task}.{split}: no row is left for it; give train at least two different pictures"
    return f"data.{task}.{split}: none of its {found.read} rows can be used; such as {found.example}"


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
        "files": {name: _sha256(folder / name) for name in files},
    }
    text = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
    (folder / "provenance.json").write_text(text, encoding="utf-8")


def _told(settings: Mapping[str, Any], found: Split) -> dict[str, Any]:
    examples = [dict(zip(("source", "reason", "detail"), row, strict=True)) for row in found.reported]
    return {
        "source": dict(settings),
        "licence": found.licence or "unknown",
        "sha256": found.digest,
        "read": found.read,
        "rows": found.rows,
        "drawn_for_validation": found.drawn,
        "not_sampled": found.not_sampled,
        "quarantined": dict(sorted(found.quarantined.items())),
        "reported": dict(sorted(Counter(row["reason"] for row in examples).items())),
        "reported_rows": examples[:_MOST_EXAMPLES],
        "changed": {"pictures encoded anew as RGB PNG": found.encoded_anew} if found.encoded_anew else {},
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
