"""One run at a time in a project folder, and no trace of a run that was killed.

A run that gets SIGKILL leaves behind what it had started: DVC, the step under it, Prefect's own server. All of them
are noted in `.othink/runs/<pid>.json` while they live; the next run ends them.
"""

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import lockfile
from othink_mr1 import processes, stages
from othink_mr1.errors import UserError

# Seconds that a step left behind gets to write its checkpoint.
GRACE = float(os.environ.get("OTHINK_GRACE", "30"))
_LOCK, _RUNS = Path("run.lock"), Path("runs")


class Run:
    """What this process has started and what must not outlive it."""

    def __init__(self, root: Path) -> None:
        self._file = root / stages.WORK / _RUNS / f"{os.getpid()}.json"
        self._guard = threading.Lock()
        self._children: dict[str, list[str]] = {}
        self._pooled: dict[str, str] = {}

    def note(self, what: str, pids: list[int]) -> None:
        """Write down processes under a name; what each one's process group holds counts too."""
        found = [process for pid in pids if (process := processes.find(pid)) is not None]
        with self._guard:
            self._children[what] = [str(process) for process in found]
            self._write()

    def forget(self, what: str) -> None:
        """The processes under this name have ended."""
        with self._guard:
            self._children.pop(what, None)
            self._write()

    def note_pooled(self, what: str, flow_run_id: str) -> None:
        """Write down a flow run that was sent to a work pool, where no process id reaches."""
        with self._guard:
            self._pooled[what] = flow_run_id
            self._write()

    def forget_pooled(self, what: str) -> None:
        """The flow run under this name has ended."""
        with self._guard:
            self._pooled.pop(what, None)
            self._write()

    @property
    def pooled(self) -> dict[str, str]:
        """The flow runs in work pools, by name; at first those that dead runs left behind."""
        with self._guard:
            return dict(self._pooled)

    def _write(self) -> None:
        if not self._children and not self._pooled:
            self._file.unlink(missing_ok=True)
            return
        entry = {"process": str(processes.current()), "children": self._children, "pooled": self._pooled}
        stages.write_whole(self._file, json.dumps(entry, indent=1) + "\n")


@contextmanager
def running(root: Path) -> Iterator[Run]:
    """Hold the project's run lock; what an earlier, dead run left behind on this machine is ended first.

    What it left in work pools is noted in the run that is given, for the flow to cancel: that takes a server.

    Raises:
        UserError: another run lives.
    """
    folder = root / stages.WORK
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, root)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{processes.current()}\n".encode(), 0)
        run = Run(root)
        for name, flow_run_id in _left_in_pools(root).items():
            run.note_pooled(name, flow_run_id)
        end_leftovers(root)
        repair_dvc(root)
        yield run
    finally:
        os.close(descriptor)


def living_run(root: Path) -> int | None:
    """The pid of the run that holds the lock of this project, or None."""
    try:
        process = processes.parse((root / stages.WORK / _LOCK).read_text().strip())
    except OSError:
        return None
    return process.pid if process is not None and process.alive else None


def end_leftovers(root: Path) -> None:
    """End what runs on behalf of a run that is dead: noted children, and steps whose owner is gone."""
    left: list[processes.Process] = []
    for file in (root / stages.WORK / _RUNS).glob("*.json"):
        owner, children = _read(file)
        if owner is None or not owner.alive:
            left += children
            file.unlink(missing_ok=True)
    for file in sorted((root / stages.WORK / "stages").glob("*.lock")):
        held = stages.holder(file.stem, root)
        if held is not None and not held[1].alive:
            left.append(held[0])
    # All are asked at once, so that they write their checkpoints side by side.
    living = [process for process in dict.fromkeys(left) if _group_alive(process)]
    for process in living:
        print(f"ending process {process.pid}, which an earlier run left behind", file=sys.stderr)
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while living and time.monotonic() < deadline:
        living = [process for process in living if _group_alive(process)]
        time.sleep(0.05)
    for process in living:
        _signal_group(process, signal.SIGKILL)


def repair_dvc(root: Path) -> None:
    """Undo what a DVC that was killed leaves behind: lock entries of dead processes, half a dvc.lock.

    DVC drops entries of pids that do not exist, but believes one whose pid went to another program since.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    if path.is_file():
        try:
            entries = json.loads(path.read_text() or "{}")
            kept = {kind: _living_entries(paths) for kind, paths in entries.items()}
            if kept != entries:
                stages.write_whole(path, json.dumps(kept))
        except (ValueError, AttributeError, TypeError, KeyError):
            path.unlink()
    if lockfile.repair(root):
        print("dvc.lock was cut short by a kill: taking back the last whole one", file=sys.stderr)


def _take(descriptor: int, root: Path) -> None:
    for _ in range(20):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.05)
    pid = living_run(root)
    who = f" (process {pid})" if pid else ""
    raise UserError(f"another `othink run`{who} is at work in {root}: wait until it ends, or end it")


def _read(file: Path) -> tuple[processes.Process | None, list[processes.Process]]:
    """Whose file it is, and the processes that are noted in it."""
    try:
        entry = json.loads(file.read_text())
        texts = [text for group in entry["children"].values() for text in group]
        found = [processes.parse(text) for text in texts]
        return processes.parse(entry["process"]), [process for process in found if process is not None]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, []


def _left_in_pools(root: Path) -> dict[str, str]:
    """Flow runs that runs which are dead had sent to work pools."""
    left: dict[str, str] = {}
    for file in (root / stages.WORK / _RUNS).glob("*.json"):
        owner, _ = _read(file)
        if owner is None or not owner.alive:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                found = json.loads(file.read_text()).get("pooled") or {}
                left |= {str(name): str(flow_run_id) for name, flow_run_id in found.items()}
    return left


def _group_alive(process: processes.Process) -> bool:
    """Whether the process lives, or, where it led a group that has outlived it, any of its group."""
    if process.alive:
        return True
    if processes.find(process.pid) is not None:
        return False  # the pid belongs to a stranger by now, and so would the group
    return any(processes.find(pid) for pid in processes.group_members(process.pid))


def _signal_group(process: processes.Process, number: int) -> None:
    for pid in {process.pid, *processes.group_members(process.pid)} - {os.getpid()}:
        found = processes.find(pid)
        if found is not None:
            try:
                found.signal(number)
            except PermissionError:
                print(f"process {pid} of an earlier run belongs to another user: end it by hand", file=sys.stderr)


def _living_entries(paths: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for path, infos in paths.items():
        if isinstance(infos, list):
            living = [info for info in infos if _is_living_dvc(int(info["pid"]))]
            if living:
                kept[path] = living
        elif infos and _is_living_dvc(int(infos["pid"])):
            kept[path] = infos
    return kept


def _is_living_dvc(pid: int) -> bool:
    return processes.find(pid) is not None and any("dvc" in part for part in processes.command_line(pid))
