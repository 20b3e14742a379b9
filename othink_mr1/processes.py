"""Who a process is, whether it still lives, and how to end it.

A pid alone is not a name: the kernel gives it out again. Here a process is named by `pid:start time`, so that a
file written before a crash or a reboot never makes us wait for, or end, a stranger.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc/self/stat").exists()


@dataclass(frozen=True)
class Process:
    """A process and the moment it started, in the kernel's own notation."""

    pid: int
    started: str

    def __str__(self) -> str:
        return f"{self.pid}:{self.started}"

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return start_time(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens where the process is gone already."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def current() -> Process:
    """This process."""
    return Process(os.getpid(), start_time(os.getpid()) or "")


def parse(text: str) -> Process | None:
    """Read `pid:start time`; None where the text is something else."""
    pid, colon, started = text.partition(":")
    return Process(int(pid), started) if colon and pid.isdigit() else None


def find(pid: int) -> Process | None:
    """The living process of this pid, or None."""
    started = start_time(pid)
    return Process(pid, started) if started is not None else None


def start_time(pid: int) -> str | None:
    """When the process started, in a notation that is only good for comparing; None if it does not live."""
    if _PROC:
        fields = _stat(pid)
        return None if fields is None or fields[0] in "ZX" else fields[19]
    # macOS: a line such as "Fri Nov 21 00:57:10 2025", nothing for a pid that is free.
    return _ps(pid, "lstart") or None


def ancestors(pid: int) -> Iterator[Process]:
    """The parent of `pid`, then its parent, up to the first process of the machine."""
    while True:
        parent = _parent(pid)
        found = find(parent) if parent > 0 else None
        if found is None:
            return
        yield found
        pid = parent


def command_line(pid: int) -> list[str]:
    """The arguments that the process was started with; empty where they cannot be read."""
    if _PROC:
        try:
            return [part.decode(errors="replace") for part in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
        except OSError:
            return []
    return _ps(pid, "command").split()


def group_members(group: int) -> list[int]:
    """The living processes of a process group."""
    if not _PROC:
        lines = _run_ps(["-A", "-o", "pid=,pgid=,stat="]).splitlines()
        rows = [line.split() for line in lines]
        return [int(row[0]) for row in rows if len(row) > 2 and row[1] == str(group) and not row[2].startswith("Z")]
    members = []
    for entry in Path("/proc").iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        if fields and fields[2] == str(group) and fields[0] not in "ZX":
            members.append(int(entry.name))
    return members


def lock(path: Path) -> int | None:
    """Lock a file for as long as this process lives, whoever has written it.

    Returns:
        An open descriptor for `unlock`, or None where another process holds the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    _locks.add(descriptor)
    return descriptor


def unlock(descriptor: int) -> None:
    """Give a lock back."""
    _locks.discard(descriptor)
    os.close(descriptor)


_locks: set[int] = set()


def _forget_locks() -> None:
    """In a forked helper (a data loader's worker): it shares our locks and would keep them after our death."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_forget_locks)


def end(process: Process, grace: float) -> bool:
    """Ask a process to end (SIGTERM), wait `grace` seconds, then make it (SIGKILL).

    Returns:
        True once it is gone; False if it outlived both (it hangs in the kernel, or is not ours).
    """
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        try:
            process.signal(number)
        except PermissionError:
            return False
        if wait(process, patience):
            return True
    return False


def wait(process: Process, seconds: float) -> bool:
    """Wait until the process is gone, at most `seconds`; whether it is."""
    deadline = time.monotonic() + seconds
    while process.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _parent(pid: int) -> int:
    if _PROC:
        fields = _stat(pid)
        return int(fields[1]) if fields else 0
    text = _ps(pid, "ppid")
    return int(text) if text.isdigit() else 0


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the command's name, which may itself hold blanks and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _ps(pid: int, column: str) -> str:
    return _run_ps(["-o", f"{column}=", "-p", str(pid)])


def _run_ps(arguments: list[str]) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False, env=environment)
    return done.stdout.strip()
