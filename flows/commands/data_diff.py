"""`othink data diff`: what became of the rows since an earlier version of the data."""

import contextlib
import json
from pathlib import Path
from typing import Any

from flows.commands.data import tasks
from flows.project import find_root
from othink_mr1.data.changes import Changes, Rows, compare, read_rows
from othink_mr1.data.schema import SPLITS
from othink_mr1.data.shards import shard_files
from othink_mr1.errors import UserError

_EXAMPLES = 5


def diff(revision: str, task: str | None, as_json: bool) -> None:
    """Print the rows added, removed and changed between the data of a git revision and those in the folder.

    Raises:
        UserError: unknown task or revision; the data are not prepared, or those of the revision are not at hand.
    """
    root = find_root()
    found = {}
    for name in tasks(task):
        now = _present(root, name)
        found[name] = compare(_earlier(root, name, revision), now)
    if as_json:
        print(json.dumps({name: changes.as_dict() for name, changes in found.items()}, indent=1, ensure_ascii=False))
        return
    for name, changes in found.items():
        _print(name, revision, changes)


def _present(root: Path, task: str) -> Rows:
    folder = root / "data" / task
    if not (folder / "provenance.json").is_file():
        raise UserError(f"data of {task}: not prepared yet; `othink run` prepares them")
    return [row for split in SPLITS for path in shard_files(folder / split) for row in read_rows(str(path))]


def _earlier(root: Path, task: str, revision: str) -> Rows:
    """The rows as a git revision's dvc.lock names them, out of DVC's cache or its remote."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import RevError
    from dvc_data.index import DataIndexDirError

    data = f"data of {task} at {revision}"
    never = UserError(f"{data}: no dvc.lock there names them; commit dvc.lock after a run to compare with it later")
    try:
        with contextlib.closing(Repo(str(root))) as repo:
            # The cache and the remote of today: a remote may have been named after that revision.
            config = {key: repo.config[key] for key in ("core", "remote", "cache")}
        files = DVCFileSystem(str(root), rev=revision, config=config)
        try:
            lock = files.read_text("dvc.lock")
        except FileNotFoundError:
            raise never from None
        if f"path: data/{task}\n" not in lock:
            raise never
        rows = []
        for split in SPLITS:
            alone = f"data/{task}/{split}.parquet"  # a split was one file once
            folder = f"data/{task}/{split}"
            for path in [alone] if files.exists(alone) else sorted(files.ls(folder, detail=False)):
                with files.open(path, "rb") as file:
                    rows += read_rows(file)
    except RevError:
        raise UserError(f"{revision}: git knows no such revision") from None
    except (FileNotFoundError, DataIndexDirError):
        raise UserError(
            f"{data}: neither DVC's cache nor a remote has them; check that revision out and `othink run` remakes them"
        ) from None
    except DvcException as error:
        raise UserError(f"{data}: {str(error).splitlines()[0]}") from None
    return rows


def _print(task: str, revision: str, changes: Changes) -> None:
    counts = ", ".join(f"{split} {changes.before[split]} → {changes.now[split]}" for split in SPLITS)
    print(f"{task}, {revision} → now: {counts} rows")
    if not (changes.added or changes.removed or changes.changed):
        print("  the same rows")
    for what, rows in (("added", changes.added), ("removed", changes.removed)):
        lines = [f"{row['split']} {row['source']}: {row['answer']!r} to {row['problem']!r}" for row in rows]
        _print_rows(what, lines)
    _print_rows(
        "changed",
        [
            f"{one.source}: " + ", ".join(f"{name} {before!r} → {now!r}" for name, (before, now) in one.fields.items())
            for one in changes.changed
        ],
    )


def _print_rows(what: str, lines: list[Any]) -> None:
    if lines:
        print(f"  {what}: {len(lines)}")
    for line in lines[:_EXAMPLES]:
        print(f"    {line[:200]}")
    if len(lines) > _EXAMPLES:
        print(f"    and {len(lines) - _EXAMPLES} more (--json has them all)")
