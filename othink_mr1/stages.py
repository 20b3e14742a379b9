"""The status file of a stage: written by the step that runs, read by everything that watches it.

`.othink/stages/<stage>.json` says what an exit code cannot: DVC turns every failure into 255, and a process that
was killed says nothing at all. A file that says "running" for a process that is gone reads as "interrupted".
"""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

from othink_mr1 import processes

WORK = Path(".othink")
# Of a process that was killed while `machine.oom_kills` grew.
OUT_OF_MEMORY = "it seems by the kernel, which has ended a process for want of memory meanwhile"


def status_path(stage: str, root: Path = Path()) -> Path:
    """Where the status of a stage lies."""
    return root / WORK / "stages" / f"{stage}.json"


def lock_path(stage: str, root: Path = Path()) -> Path:
    """The file whose lock a running step holds; it names the holder and the holder's owner."""
    return root / WORK / "stages" / f"{stage}.lock"


def write_status(stage: str, status: dict[str, Any], root: Path = Path()) -> None:
    """Replace the status file: readers see the old one or the new one, never half of one."""
    write_whole(status_path(stage, root), json.dumps(status, indent=1) + "\n")


def read_status(stage: str, root: Path = Path()) -> dict[str, Any] | None:
    """The status of a stage, or None if it never ran here.

    Its `state` is running, done, failed or interrupted; `message` the one line of a failure; `progress` holds
    `done`, `total` and `what`; `pid`, `pid_started` and `owner` say which process; times are Unix seconds.
    """
    try:
        status = json.loads(status_path(stage, root).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(status, dict):
        return None
    if status.get("state") == "running" and not _process(status).alive:
        status["state"] = "interrupted"
    return status


def holder(stage: str, root: Path = Path()) -> tuple[processes.Process, processes.Process] | None:
    """The process that last took the stage's lock and its owner; whether they live is for the caller to ask."""
    try:
        lines = lock_path(stage, root).read_text().splitlines()
    except OSError:
        return None
    found = [processes.parse(line) for line in lines[:2]]
    if len(found) < 2 or found[0] is None or found[1] is None:
        return None
    return found[0], found[1]


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; a text as UTF-8. Processes and threads may do so at once: one of them wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def replace_folder(made: Path, target: Path) -> None:
    """Put a folder in the place of another one, whole: at no time does `target` hold a mixture."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last move is one rename even if `made` lies on another disk.
    new, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.move(made, new)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _process(status: dict[str, Any]) -> processes.Process:
    return processes.Process(int(status.get("pid") or 0), str(status.get("pid_started", "")))
