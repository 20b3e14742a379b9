"""Times `prepare_data` beside a plain `datasets.map` that decodes and hashes the same pictures, in as many processes.

    python -m benchmarks.prepare_data --rows 1000,10000,70000 --json

Both read the same parquet shards of 480x320 pictures, half PNG and half JPEG, no two alike. Ours is everything that
the step does with them: decode, hash, check each row, check the rows beside each other and against a test split of 400,
write the splits; then the expectations, timed apart. `datasets.map` decodes, hashes the pixels and writes its dataset;
that the shards were made into its own format before is not counted. Each runs in a process of its own; peak memory is
the most that this process and its workers held at one time, pages that they share counted once each time.
"""

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from othink_mr1.data.parallel import ordered_map
from othink_mr1.data.synthetic import counting
from othink_mr1.machine import cores

_SIZE = (480, 320)
_SCENES = 200
_TEST_ROWS = 400
_SHARD_ROWS = 1000
_EVERY = 0.2  # seconds between two looks at the memory


def write_shards(folder: Path, first: int, rows: int) -> None:
    """Parquet files as the hub has them, with pictures, questions and solutions of the numbers from `first` on."""
    folder.mkdir(parents=True)
    pictures = ordered_map(_picture, range(first, first + rows), expected=rows)
    for start in range(first, first + rows, _SHARD_ROWS):
        numbers = range(start, min(start + _SHARD_ROWS, first + rows))
        table = pa.table(
            {
                "image": [{"bytes": next(pictures), "path": None} for _ in numbers],
                "problem": ["How many items are there in the image?"] * len(numbers),
                "solution": [f"<answer> {number % 9 + 1} </answer>" for number in numbers],
            }
        )
        pq.write_table(table, folder / f"{start // _SHARD_ROWS:05d}.parquet", compression="none", row_group_size=100)


@cache
def _scene(number: int) -> np.ndarray:
    """A rendered scene, (320, 480, 3)."""
    scene: Image.Image = counting.scene(0, number, "train", 128)["image"]
    return np.asarray(scene.resize(_SIZE, Image.Resampling.BICUBIC))


def _picture(number: int) -> bytes:
    """A scene moved sideways, with some grain: no two numbers give the same pixels."""
    rng = np.random.default_rng(number)
    moved = np.roll(_scene(number % _SCENES), int(rng.integers(_SIZE[0])), axis=1)
    grain = rng.integers(-4, 5, size=(*moved.shape[:2], 1), dtype=np.int16)
    picture = Image.fromarray(np.clip(moved + grain, 0, 255).astype(np.uint8))
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

    settings = {
        "train": {"source": "parquet"},
        "validation": {"fraction": 0.02},
        "test": {"source": "parquet"},
    }
    paths = {"data.counting.train": shards / "train", "data.counting.test": shards / "test"}
    began = time.perf_counter()
    prepared = prepare("counting", settings, 0, paths, work)
    ended = time.perf_counter()
    names = dict.fromkeys(SPLITS, "parquet")
    expectations.validate(prepared, {"max_quarantined": 0.05, "min_rows": 1}, names, {}, work / "data_docs")
    kept = sum(found.rows for found in prepared.splits.values())
    return {"seconds": ended - began, "expectations_s": time.perf_counter() - ended, "rows_kept": kept}


def plain(shards: Path, work: Path) -> dict[str, float]:
    """`datasets.map`."""
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(
        "parquet", data_files=str(shards / "train" / "*.parquet"), split="train", cache_dir=str(work)
    ).cast_column("image", datasets.Image(decode=False))  # or it would write every picture as PNG anew
    began = time.perf_counter()
    mapped = loaded.map(_decode_and_hash, num_proc=cores())
    return {"seconds": time.perf_counter() - began, "rows_kept": len(mapped)}


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


def compare(rows: int, folder: Path) -> dict[str, Any]:
    """Both sides on so many train rows."""
    shards = folder / "shards"
    write_shards(shards / "train", 0, rows)
    write_shards(shards / "test", rows, _TEST_ROWS)
    found: dict[str, Any] = {"rows": rows}
    for side in SIDES:
        found[side] = measure(side, shards, folder / "work")
        shutil.rmtree(folder / "work")
    found["ours"]["rows_per_s"] = (rows + _TEST_ROWS) / found["ours"]["seconds"]
    found["datasets.map"]["rows_per_s"] = rows / found["datasets.map"]["seconds"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare_data", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1000,10000,70000", help="numbers of rows, with commas between them")
    parser.add_argument(
        "--folder", type=Path, help="where to put pictures and results (gigabytes); default: a temporary"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a number of rows")
    parser.add_argument("--side", nargs=3, metavar=("NAME", "SHARDS", "WORK"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        name, shards, work = chosen.side
        print(json.dumps(SIDES[name](Path(shards), Path(work))))
        return
    for rows in (int(number) for number in chosen.rows.split(",")):
        with tempfile.TemporaryDirectory(prefix="othink-prepare-", dir=chosen.folder) as folder:
            found = compare(rows, Path(folder))
        print(json.dumps(found) if chosen.json else _told(found), flush=True)


def _told(found: dict[str, Any]) -> str:
    mine, peer = found["ours"], found["datasets.map"]
    return (
        f"{found['rows']} rows: {mine['rows_per_s']:.0f} rows/s, peak {mine['peak_mb']:.0f} MiB "
        f"(expectations: {mine['expectations_s']:.1f} s more); datasets.map in {cores()} processes: "
        f"{peer['rows_per_s']:.0f} rows/s, peak {peer['peak_mb']:.0f} MiB"
    )


if __name__ == "__main__":
    main()
