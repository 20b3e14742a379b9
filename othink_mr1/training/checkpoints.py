"""The folder of a run's checkpoints: held by one process, its checkpoints verified before one is used."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.trainer_utils import rotate_checkpoints

from othink_mr1 import processes
from othink_mr1.digests import file_digest
from othink_mr1.errors import UserError

# In every checkpoint: the size and sha256 of each of its files.
_SEAL = "seal.json"
# In the folder of the checkpoints: the lock, which names its holder, and a checkpoint that is being written.
_LOCK, UNFINISHED = "lock", "unfinished"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other process from writing checkpoints to `folder`; a process that dies gives it back.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = processes.lock(folder / _LOCK)
    except OSError as error:
        raise UserError(f"{folder}: checkpoints cannot be written there ({error.strerror})") from None
    if lock is None:
        holder = processes.parse((folder / _LOCK).read_text(encoding="utf-8"))
        who = f"process {holder.pid}" if holder else "another process"
        raise UserError(f"{folder}: {who} writes its checkpoints there; wait until it ends, or end it")
    try:
        os.truncate(lock, 0)
        os.pwrite(lock, str(processes.current()).encode(), 0)
        yield
    finally:
        processes.unlock(lock)


def seal(checkpoint: Path) -> None:
    """Record what the files of a finished checkpoint are."""
    (checkpoint / _SEAL).write_text(json.dumps(_contents(checkpoint), indent=1), encoding="utf-8")


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None where every file is as it was sealed."""
    try:
        sealed = json.loads((checkpoint / _SEAL).read_text(encoding="utf-8"))
        found = _contents(checkpoint)
    except (OSError, ValueError) as error:
        return f"{_SEAL} cannot be read ({error})"
    for name in sorted({*sealed, *found}):
        if name not in found:
            return f"{name} is missing"
        if found[name] != sealed.get(name):
            return f"{name} is not as it was written"
    return None


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None. A damaged one is told of and removed."""
    numbered = {int(found.name.rpartition("-")[2]): found for found in folder.glob("checkpoint-[0-9]*")}
    for number, checkpoint in sorted(numbered.items(), reverse=True):
        wrong = damage(checkpoint)
        if wrong is None:
            return checkpoint
        then = "going back to the one before" if number > min(numbered) else "it was the last, so all begins anew"
        print(f"{checkpoint} is damaged ({wrong}): {then}", file=sys.stderr, flush=True)
        shutil.rmtree(checkpoint)
    return None


def keep(folder: Path, name: str, limit: int | None) -> None:
    """Seal the checkpoint `name` that lies finished in `folder/unfinished`, put it in its place, and remove all but
    the last `limit`."""
    beside, place = folder / UNFINISHED / name, folder / name
    seal(beside)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(beside, place)
    rotate_checkpoints(output_dir=str(folder), save_total_limit=limit, use_mtime=False)


def _contents(checkpoint: Path) -> dict[str, list[int | str]]:
    found: dict[str, list[int | str]] = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != _SEAL:
            found[path.relative_to(checkpoint).as_posix()] = [path.stat().st_size, file_digest(path)]
    return found
