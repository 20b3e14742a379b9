"""The files of the splits, out of the index and the pictures that wait; each file by one process."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from othink_mr1.data.index import Index, rows_between
from othink_mr1.data.parallel import Progress, Workers
from othink_mr1.data.schema import SCHEMA, ParquetSink
from othink_mr1.data.shards import shard_ids, shard_name
from othink_mr1.data.waiting import Departures


@dataclass(frozen=True)
class Shard:
    """A file to write: its name, and which rows of the index it holds."""

    task: str
    split: str
    name: str
    first_id: str
    beyond_id: str


@dataclass(frozen=True)
class Written:
    """A file that is written: its name, sha256, and width and height of its pictures, (rows, 2)."""

    name: str
    sha256: str
    sizes: np.ndarray


def write_splits(
    task: str,
    rows: Mapping[str, int],
    index: Index,
    waiting: Path,
    folder: Path,
    workers: Workers,
    progress: Progress,
) -> dict[str, list[Written]]:
    """Writes the files of each split, in new folders under `folder`.

    Args:
        rows: of each split.
        waiting: where the pictures are.
    """
    shards = []
    for split in rows:
        (folder / split).mkdir()
        ids = shard_ids(rows[split])
        names = [f"{split}/{shard_name(number, len(ids))}" for number in range(len(ids))]
        shards += [Shard(task, split, name, *bounds) for name, bounds in zip(names, ids, strict=True)]
    written: dict[str, list[Written]] = {split: [] for split in rows}
    write = partial(_write, index=index.path, waiting=waiting, folder=folder)
    for number, (shard, done) in enumerate(zip(shards, workers.map(write, shards), strict=True), 1):
        written[shard.split].append(done)
        progress(number, len(shards), f"writing {task} files")
    return written


def _write(shard: Shard, index: Path, waiting: Path, folder: Path) -> Written:
    sizes = []
    with ParquetSink(folder / shard.name, SCHEMA) as sink, closing(Departures(waiting)) as pictures:
        for row, place, size in rows_between(index, shard.split, shard.first_id, shard.beyond_id):
            image = {"bytes": pictures.get(place), "path": None}
            sink.write({**row, "task": shard.task, "split": shard.split, "image": image})
            sizes.append(size)
    return Written(shard.name, sink.sha256(), np.array(sizes, dtype=np.int32).reshape(-1, 2))
