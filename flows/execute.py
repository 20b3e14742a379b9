"""One DVC stage as one subprocess that can be ended: the part of a stage's run that knows nothing of Prefect."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import lockfile
from flows.project import step_environment
from flows.run_lock import Run
from othink_mr1 import machine, processes, stages
from othink_mr1.errors import UserError

# Seconds that a step gets to write a checkpoint before it is killed.
GRACE = float(os.environ.get("OTHINK_GRACE", "30"))
_SKIPPED = "didn't change, skipping"
_RESTORED = "is cached - skipping run"


class StageFailedError(UserError):
    """A stage ended badly. `again` says whether it may go better when tried again."""

    def __init__(self, message: str, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


class StageInterruptedError(StageFailedError):
    """A stage was stopped or killed; its checkpoint, where it has one, is kept."""


@dataclass
class Watch:
    """What the caller wants to hear of while the stage runs."""

    line: Callable[[str], None] = lambda line: None
    tick: Callable[[], None] = lambda: None


def log_path(root: Path, name: str) -> Path:
    """The file with everything that the stage printed in its last run."""
    return root / stages.WORK / "logs" / f"{name}.log"


def run_stage(
    root: Path,
    name: str,
    run: Run,
    stop: threading.Event,
    force: bool = False,
    time_limit: float | None = None,
    environment: dict[str, str] | None = None,
    watch: Watch | None = None,
) -> str:
    """Bring one stage up to date with `dvc repro --single-item`.

    Args:
        root: the project's folder.
        name: the stage.
        run: where the subprocess is noted while it lives.
        stop: ends the stage once it is set.
        force: run it even if it is up to date.
        time_limit: seconds after which it is ended.
        environment: more variables, such as the GPU that it gets.
        watch: hears of every line and, several times a second, that the stage still runs.

    Returns:
        "ran"; "restored" where DVC had the outputs of an earlier run with the same inputs; "cached" where nothing had
        changed.

    Raises:
        StageFailedError: with the step's own line.
        StageInterruptedError: it was stopped, killed, or took too long.
    """
    watch = watch or Watch()
    began, kills = time.time(), machine.oom_kills()
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *(["--force"] * force), name]
    log = log_path(root, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    # The stage writes to a file, not to a pipe: a pipe would break with us, and its checkpoint with it.
    with log.open("wb") as output, log.open("r", errors="replace") as lines:
        child = subprocess.Popen(
            command,
            cwd=root,
            env=step_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        run.note(name, [child.pid])
        reason = ""
        try:
            reason = _follow(child, began, time_limit, stop, lambda: _pass_on(lines, watch))
        finally:
            # However this ends, nothing of the stage goes on without us: DVC may have died and left its step.
            _end_group(child)
            run.forget(name)
        _pass_on(lines, watch)
    status = stages.read_status(name, root) or {}
    fresh = status if status.get("started_at", 0) >= began else {}
    if reason:
        raise StageInterruptedError(f"{name}: {reason}", again=False)
    if child.returncode == 0:
        lockfile.keep(root, name)
        return _outcome(log, fresh)
    if fresh.get("users_mistake"):
        _put_back(root, name)
    raise _failure(name, log, fresh, child.returncode, machine.oom_kills() != kills)


def _put_back(root: Path, name: str) -> None:
    """Bring back what the stage had written before, which DVC deletes when it begins a stage.

    A step that refuses its input has nothing to go on from, so the last good version is the one to work with. Where
    there is none, or not in the cache any more, nothing changes.
    """
    if name in lockfile.read(root):
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "checkout", "--quiet", name]
        subprocess.run(command, cwd=root, env=step_environment(), capture_output=True, check=False)


def _follow(
    child: "subprocess.Popen[bytes]",
    began: float,
    time_limit: float | None,
    stop: threading.Event,
    tick: Callable[[], None],
) -> str:
    """Wait for the end of DVC; the reason where it has to be ended instead, else nothing."""
    while child.poll() is None:
        tick()
        if stop.wait(0.2):
            return "stopped"
        if time_limit is not None and time.time() - began > time_limit:
            return f"took longer than its time limit of {time_limit / 60:g} min (flow.time_limit)"
    return ""


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    """End what is left of the stage's process group: politely, then not.

    SIGINT, because DVC then waits for its step and gives its locks back; SIGTERM would kill DVC and leave the step.
    """
    for number, patience in ((signal.SIGINT, GRACE), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        if not _group_lives(child):
            return
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            return
        while _group_lives(child) and time.monotonic() < deadline:
            time.sleep(0.05)


def _group_lives(child: "subprocess.Popen[bytes]") -> bool:
    child.poll()
    return bool(processes.group_members(child.pid))


def _pass_on(lines: Any, watch: Watch) -> None:
    for line in lines.read().splitlines():
        if line.strip():
            watch.line(line.rstrip())
    watch.tick()


def _outcome(log: Path, status: dict[str, Any]) -> str:
    if status:
        return "ran"
    text = log.read_text(errors="replace")
    if _RESTORED in text:
        return "restored"
    return "cached" if _SKIPPED in text else "ran"


def _failure(name: str, log: Path, status: dict[str, Any], code: int, out_of_memory: bool) -> StageFailedError:
    """
    Args:
        out_of_memory: the kernel has killed a process for want of memory since the stage began.
    """
    # What would save memory a training notes when it begins.
    told = "; ".join([stages.OUT_OF_MEMORY, *status.get("savings", ())]) if out_of_memory else ""
    if status.get("state") == "failed":
        return StageFailedError(f"{name}: {_without(name, status['message'])}", again=not status.get("users_mistake"))
    if status.get("state") == "interrupted":
        killed = "the step was killed" + (f", {told}" if told else "")
        return StageInterruptedError(f"{name}: {status.get('message') or killed}")
    if code < 0:
        after = f", {told}" if told and -code == signal.SIGKILL else ""
        return StageInterruptedError(f"{name}: DVC was ended by {signal.Signals(-code).name}{after}")
    return StageFailedError(f"{name}: {_without(name, _last_word(log))}")


def _last_word(log: Path) -> str:
    """The step's own last line, or DVC's where the step never spoke."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("ERROR: failed to reproduce", "Running stage", "> "))]
    errors = [line.removeprefix("ERROR: ") for line in told if line.startswith("ERROR: ")]
    return next(iter([*errors[:1], *told[-1:], *lines[-1:]]), "failed without a word")


def _without(name: str, message: str) -> str:
    return message.removeprefix(f"{name}: ")
