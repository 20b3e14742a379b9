"""Times `prepare_data` beside a plain `datasets.map` that decodes and hashes the same pictures, in as many processes.

    python -m benchmarks.prepare_data --rows 1000,10000,70000 --json

Both begin with the same parquet files of 480x320 pictures, half PNG and half JPEG, no two alike. Ours is everything
that the step does with them: decode, hash, check each row, check the rows beside each other and against a test split of
400, write the splits; then the expectations, timed apart. The other side loads the files with `load_dataset`, which
rewrites them in its own format, and then `datasets.map` decodes, hashes the pixels and writes its dataset; the two are
timed apart. Each side runs in a process of its own, in turn; imports are not timed. Peak memory is the most that this
process and its workers held at one time, pages that they share counted once each time; `cpu_s` is the processor time of
all of them, which says more than the rows a second where other programs use the machine as well.
"""

import argparse
import hashlib
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from othink_mr1.data.parallel import Workers
from othink_mr1.data.synthetic import counting
from othink_mr1.machine import cores

_SIZE = (480, 320)
_TEST_ROWS = 400
_FIRST_TEST_NUMBER = 10**6
_SHARD_ROWS = 1000
_EVERY = 0.2  # seconds between two looks at the memory
_UNTIL_ENDED = 0.5  # seconds that workers get to end, so that their processor time is known


def write_shards(folder: Path, first: int, rows: int) -> None:
    """Parquet files as the hub has them, with pictures, questions and solutions of the numbers from `first` on.

    A file that is there already stays: it holds the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Workers(cores()) as workers:
        for start in range(0, rows, _SHARD_ROWS):
            path = folder / f"{start // _SHARD_ROWS:05d}.parquet"
            if not path.exists():
                _write_shard(path, range(first + start, first + min(start + _SHARD_ROWS, rows)), workers)


def _write_shard(path: Path, numbers: range, workers: Workers) -> None:
    table = pa.table(
        {
            "image": [{"bytes": picture, "path": None} for picture in workers.map(_picture, numbers)],
            "problem": ["How many items are there in the image?"] * len(numbers),
            "solution": [f"<answer> {number % 9 + 1} </answer>" for number in numbers],
        }
    )
    beside = path.with_suffix(".new")
    pq.write_table(table, beside, compression="none", row_group_size=100)
    beside.rename(path)


def _picture(number: int) -> bytes:
    """A scene of its own for each number, enlarged, with some grain as a camera's."""
    scene: Image.Image = counting.scene(0, number, "train", 128)["image"]
    pixels = np.asarray(scene.resize(_SIZE, Image.Resampling.BICUBIC))
    grain = np.random.default_rng(number).integers(-4, 5, size=(*pixels.shape[:2], 1), dtype=np.int16)
    picture = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    if number % 2:
        picture.save(buffer, "JPEG", quality=90)
    else:
        picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def ours(shards: Path, work: Path) -> dict[str, float]:
    """The work of the step `prepare_data`."""
    import pandas  # noqa: F401  (the expectations need it in any case; imports are not timed on either side)

    from othink_mr1.data import expectations
    from othink_mr1.data.prepare import prepare
    from othink_mr1.data.schema import SPLITS

    source = {"source": "parquet", "licence": "CC-BY-4.0"}
    settings = {"train": source, "validation": {"fraction": 0.02}, "test": source}
    paths = {"data.counting.train": shards / "train", "data.counting.test": shards / "test"}
    before, began = _processor_time(), time.perf_counter()
    prepared = prepare("counting", settings, 0, paths, work)
    ended, after = time.perf_counter(), _processor_time()
    names = dict.fromkeys(SPLITS, "parquet")
    checks_began = time.perf_counter()
    expectations.validate(prepared, {"max_quarantined": 0.05, "min_rows": 1}, names, {}, work / "data_docs")
    return {
        "seconds": ended - began,
        "cpu_s": after - before,
        "expectations_s": time.perf_counter() - checks_began,
        "rows": sum(found.read for found in prepared.splits.values()),
    }


def plain(shards: Path, work: Path) -> dict[str, float]:
    """`load_dataset`, then `datasets.map`."""
    import datasets

    datasets.disable_progress_bars()
    began = time.perf_counter()
    loaded = datasets.load_dataset(
        "parquet", data_files=str(shards / "train" / "*.parquet"), split="train", cache_dir=str(work)
    ).cast_column("image", datasets.Image(decode=False))  # or it would write every picture as PNG anew
    loaded_in = time.perf_counter() - began
    before, began = _processor_time(), time.perf_counter()
    mapped = loaded.map(_decode_and_hash, num_proc=cores())
    ended, after = time.perf_counter(), _processor_time()
    return {"seconds": ended - began, "cpu_s": after - before, "load_s": loaded_in, "rows": len(mapped)}


def _processor_time() -> float:
    """Seconds of this process and of its workers that have ended."""
    time.sleep(_UNTIL_ENDED)
    return sum(
        use.ru_utime + use.ru_stime for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _decode_and_hash(row: dict[str, Any]) -> dict[str, Any]:
    with Image.open(io.BytesIO(row["image"]["bytes"])) as picture:
        pixels = picture.tobytes()  # decodes; all of them are RGB
        digest = hashlib.sha256(f"{picture.width}x{picture.height}:".encode() + pixels).hexdigest()
        return {"pixels_sha256": digest, "width": picture.width, "height": picture.height}


SIDES = {"ours": ours, "datasets.map": plain}


def measure(side: str, shards: Path, work: Path) -> dict[str, float]:
    """One side in a process of its own: what it says, and the peak of its memory, MiB."""
    work.mkdir()
    command = [sys.executable, "-m", "benchmarks.prepare_data", "--side", side, str(shards), str(work)]
    running = psutil.Popen(command, stdout=subprocess.PIPE)
    peak = 0
    while running.poll() is None:
        peak = max(peak, _resident(running))
        time.sleep(_EVERY)
    assert running.stdout is not None
    said = running.stdout.read()
    if running.returncode:
        raise SystemExit(f"{side}: ended with {running.returncode}")
    return {**json.loads(said), "peak_mb": peak / 2**20}


def _resident(process: psutil.Process) -> int:
    """Bytes that a process and its workers hold in memory."""
    held = 0
    try:
        for one in (process, *process.children(recursive=True)):
            held += one.memory_info().rss
    except psutil.NoSuchProcess:  # one that has just ended
        pass
    return held


def compare(rows: int, shards: Path, rounds: int) -> dict[str, Any]:
    """Both sides on so many train rows, in turn, so that whatever else the machine does hits both; medians."""
    with tempfile.TemporaryDirectory(prefix="othink-prepare-", dir=shards) as folder:
        given = Path(folder) / "shards"
        for split, count in (("train", rows), ("test", _TEST_ROWS)):
            (given / split).mkdir(parents=True)
            for path in sorted((shards / split).glob("*.parquet"))[: -(-count // _SHARD_ROWS)]:
                os.link(path, given / split / path.name)
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(rounds):
            for side in SIDES:
                os.sync()  # or the disk would still be busy with what was written before
                runs[side].append(measure(side, given, Path(folder) / "work"))
                shutil.rmtree(Path(folder) / "work")
    found: dict[str, Any] = {"rows": rows, "rounds": rounds}
    for side, measured in runs.items():
        found[side] = {name: statistics.median(run[name] for run in measured) for name in measured[0]}
        found[side]["rows_per_s"] = found[side]["rows"] / found[side]["seconds"]
    peer = found["datasets.map"]
    peer["rows_per_s_with_load"] = peer["rows"] / (peer["seconds"] + peer["load_s"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare_data", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1000,10000,70000", help="numbers of rows, thousands, with commas between")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs; the medians are told")
    parser.add_argument("--folder", type=Path, help="where to keep the pictures (8 GB for 70000) for another time")
    parser.add_argument("--json", action="store_true", help="print one JSON object a number of rows")
    parser.add_argument("--side", nargs=3, metavar=("NAME", "SHARDS", "WORK"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        name, shards, work = chosen.side
        print(json.dumps(SIDES[name](Path(shards), Path(work))))
        return
    numbers = [int(number) for number in chosen.rows.split(",")]
    if any(number < 1 or number % _SHARD_ROWS for number in numbers):
        parser.error(f"--rows {chosen.rows}: each should be a multiple of {_SHARD_ROWS}")
    with ExitStack() as stack:
        folder = chosen.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="othink-prepare-")))
        write_shards(folder / "train", 0, max(numbers))
        write_shards(folder / "test", _FIRST_TEST_NUMBER, _TEST_ROWS)
        for rows in numbers:
            found = compare(rows, folder, chosen.rounds)
            print(json.dumps(found) if chosen.json else _told(found), flush=True)


def _told(found: dict[str, Any]) -> str:
    mine, peer = found["ours"], found["datasets.map"]
    cpu = {side: 1000 * found[side]["cpu_s"] / found[side]["rows"] for side in SIDES}
    return (
        f"{found['rows']} rows: {mine['rows_per_s']:.0f} rows/s, {cpu['ours']:.2f} ms of processor time a row, "
        f"peak {mine['peak_mb']:.0f} MiB (expectations: {mine['expectations_s']:.1f} s more); "
        f"datasets.map in {cores()} processes: {peer['rows_per_s']:.0f} rows/s "
        f"({peer['rows_per_s_with_load']:.0f} with load_dataset), {cpu['datasets.map']:.2f} ms, "
        f"peak {peer['peak_mb']:.0f} MiB"
    )


if __name__ == "__main__":
    main()
