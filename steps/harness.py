"""What every step has in common: its parameters, its lock, its status file, how it is stopped.

    def main(argv=None):
        arguments = parser.parse_args(argv)
        settings = harness.params(f"train.{arguments.method}.{arguments.task}")
        with harness.stage(f"train@{arguments.method}-{arguments.task}", checkpoints=True) as stage:
            for number in range(steps):
                ...
                stage.progress(number + 1, steps, "training")
                if stage.stop_requested.is_set():
                    save_a_checkpoint()
                    stage.raise_if_stopped()

    if __name__ == "__main__":
        harness.run_step(main)

A step knows nothing of Prefect, MLflow or DVC: it reads `.othink/params.yaml`, writes files and ends.
"""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from othink_mr1 import processes, stages
from othink_mr1.errors import UserError

# Seconds that an orphan of an earlier run gets to write its checkpoint before it is killed.
GRACE = float(os.environ.get("OTHINK_GRACE", "30"))
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


class Interrupted(BaseException):
    """The step was asked to stop. Not an Exception: no `except Exception` on the way may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


def params(dotted: str) -> Any:
    """The value at `dotted` (such as "train.sft.counting") of the parameters in force.

    Raises:
        UserError: they were not resolved yet, cannot be read, or hold no such key.
    """
    path = Path(os.environ.get("OTHINK_PARAMS", stages.WORK / "params.yaml"))
    try:
        value = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `othink run` or `python -m steps.resolve` first") from None
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({_first_line(error)}): run `python -m steps.resolve`") from None
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(f"{path}: {dotted!r} is not set; run `python -m steps.resolve`")
        value = value[part]
    return value


def resume_anyway() -> bool:
    """Whether training is to go on from a checkpoint that other code has made (`othink run --resume-anyway`)."""
    return bool(os.environ.get("OTHINK_RESUME_ANYWAY"))


def local_path(key: str) -> Path:
    """The path on this machine behind a source such as "data.counting.test" or "base".

    Raises:
        UserError: the parameters name no path for it.
    """
    paths = params("local.paths")
    if key not in paths:
        raise UserError(f"local.paths: no path for {key!r}; run `python -m steps.resolve`")
    return Path(paths[key])


class Stage:
    """A step that runs under its stage's lock: where it reports progress and learns that it should stop."""

    def __init__(self, name: str, checkpoints: bool) -> None:
        self.name = name
        self.stop_requested = threading.Event()
        self._checkpoints = checkpoints
        self._signal = signal.SIGTERM
        self._interrupts = 0
        self._written = 0.0
        self._began = 0, time.monotonic()
        me = processes.current()
        self.owner = owner()
        self._status: dict[str, Any] = {
            "stage": name,
            "state": "running",
            "pid": me.pid,
            "pid_started": me.started,
            "owner": str(self.owner),
            "started_at": time.time(),
            "message": "",
            "progress": {"done": 0, "total": 0, "what": ""},
        }

    def progress(self, done: int, total: int, what: str) -> None:
        """Say how far the step is; cheap to call at every item: the file is written at most twice a second."""
        now = time.monotonic()
        if total != self._status["progress"]["total"]:
            self._began = done, now
        self._status["progress"] = {"done": done, "total": total, "what": what}
        if now - self._written < 0.5 and done < total:
            return
        self._written = now
        stages.write_status(self.name, self._status)
        if sys.stderr.isatty():
            done_before, since = self._began
            pace = (now - since) / max(1, done - done_before)  # not counting what a checkpoint brought
            _draw_bar(self.name, what, done, total, pace * (total - done))

    def note(self, **facts: Any) -> None:
        """Put facts into the status file, where the flow finds them."""
        self._status |= facts
        stages.write_status(self.name, self._status)

    def raise_if_stopped(self) -> None:
        """End the step as interrupted if a stop was requested. A step that returns instead counts as done.

        Raises:
            Interrupted: a stop was requested.
        """
        if self.stop_requested.is_set():
            raise Interrupted(self._signal)

    def ask_to_stop(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler. A second Ctrl-C ends the process at once.

        SIGTERM again is the same request: the watchdog of an orphan sends one, the run that finds the orphan another,
        and the checkpoint that the first one asked for is still being written.
        """
        impatient = number == signal.SIGINT and self._interrupts > 0
        self._interrupts += number == signal.SIGINT
        if self.stop_requested.is_set():
            if not impatient:
                return
            self.finish("interrupted", f"ended at once by {signal.Signals(number).name}")
            os._exit(128 + number)
        self._signal = signal.Signals(number)
        self.stop_requested.set()
        if not self._checkpoints:
            raise Interrupted(number)

    def finish(self, state: str, message: str = "") -> None:
        """Write the last word of the status file."""
        self._status |= {"state": state, "message": message, "ended_at": time.time()}
        stages.write_status(self.name, self._status)


@contextmanager
def stage(name: str, checkpoints: bool = False) -> Iterator[Stage]:
    """Run the body as the one living process of this stage.

    SIGTERM and SIGINT, and the death of the owner, end the body as interrupted. With `checkpoints` they only set
    `stop_requested`: the body then saves what it wants to keep and calls `raise_if_stopped`.

    Raises:
        UserError: another run, which still lives, is at this stage.
        Interrupted: the step was stopped.
    """
    running = Stage(name, checkpoints)
    lock = _take_lock(name, running.owner)
    before = {number: signal.signal(number, running.ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    over = threading.Event()
    try:
        stages.write_status(name, running._status)
        if running.owner != processes.current():
            threading.Thread(target=_watch_owner, args=(running.owner, over), daemon=True).start()
        yield running
        running.finish("done")
    except Interrupted as interrupted:
        running.finish("interrupted", str(interrupted))
        raise
    except BaseException as error:
        # What the user has to put right does not get better by trying again.
        running._status["users_mistake"] = isinstance(error, UserError)
        _finish_despite(running, _one_line(error))
        raise
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        processes.unlock(lock)


class _Follower(Stage):
    """Tells nothing: the first process does."""

    def progress(self, done: int, total: int, what: str) -> None:
        pass

    def note(self, **facts: Any) -> None:
        pass

    def finish(self, state: str, message: str = "") -> None:
        pass


@contextmanager
def follower(name: str) -> Iterator[Stage]:
    """Run the body as a further process of a stage that the first one holds. It is asked to stop as that one is."""
    running = _Follower(name, checkpoints=True)
    before = {number: signal.signal(number, running.ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield running
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_step(main: Callable[[], Any]) -> None:
    """Run a step's main and exit: 0, or 1 with one line for what the user can put right, or 128 + signal."""
    try:
        code = main()
    except UserError as error:
        _exit(str(error), 1)
    except Interrupted as interrupted:
        _exit(str(interrupted), 128 + interrupted.number)
    except KeyboardInterrupt:
        _exit("interrupted by SIGINT", 130)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        _exit(_disk_message(error), 1)
    sys.exit(code or 0)


def owner() -> processes.Process:
    """The process on whose behalf this step runs: when it is gone, nobody waits for the step's result.

    `OTHINK_OWNER` names it where the flow started the step; else it is the nearest `dvc` above this process. A step
    that was started by hand is its own: it may outlive its shell, as under `nohup`.
    """
    named = processes.parse(os.environ.get("OTHINK_OWNER", ""))
    if named is not None:
        return named
    above = processes.ancestors(os.getpid())
    dvc = (process for process in above if _is_dvc(processes.command_line(process.pid)))
    return next(dvc, processes.current())


def runs_in_flow() -> bool:
    """Whether the flow started this step, and not `dvc repro` or a person."""
    return "OTHINK_OWNER" in os.environ


def _is_dvc(arguments: list[str]) -> bool:
    return any(Path(argument).name == "dvc" for argument in arguments[:3])


def _take_lock(name: str, my_owner: processes.Process) -> int:
    """Lock the stage for as long as this process lives, ending an orphan that still holds it."""
    path = stages.lock_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    unknown_until = time.monotonic() + 5
    while (lock := processes.lock(path)) is None:
        found = stages.holder(name)
        if found is None or not found[0].alive:
            # Between taking the lock and signing it, or between a death and the kernel's release of the lock.
            if time.monotonic() > unknown_until:
                raise UserError(f"{name}: another process holds {path}; end it and try again") from None
            time.sleep(0.05)
        else:
            _end_orphan(name, *found)
            # Its threads may outlive it by a moment, and with them its lock.
            unknown_until = time.monotonic() + 5
    os.truncate(lock, 0)
    os.pwrite(lock, f"{processes.current()}\n{my_owner}\n".encode(), 0)
    return lock


def _end_orphan(name: str, orphan: processes.Process, its_owner: processes.Process) -> None:
    if its_owner.alive:
        raise UserError(
            f"{name}: already running as process {orphan.pid}"
            f"{'' if its_owner == orphan else f', started by process {its_owner.pid}'}; wait until it ends, or end it"
        )
    print(f"{name}: ending process {orphan.pid}, which an earlier run left behind", file=sys.stderr)
    if not processes.end(orphan, GRACE):
        raise UserError(f"{name}: process {orphan.pid} of an earlier run cannot be ended; end it and try again")


def _watch_owner(watched: processes.Process, over: threading.Event) -> None:
    """End an orphan: once the owner is gone, ask this process to stop as SIGTERM would."""
    while not over.wait(1.0):
        if not watched.alive:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _finish_despite(running: Stage, message: str) -> None:
    """Record a failure, even where the disk that the status would go to is what failed."""
    with suppress(OSError):
        running.finish("failed", message)


def _draw_bar(name: str, what: str, done: int, total: int, left: float) -> None:
    filled = round(24 * done / total) if total else 0
    bar = "#" * filled + "." * (24 - filled)
    end = "\n" if done >= total else ""
    print(f"\r{name} {what} [{bar}] {done}/{total} {left:.0f} s left ", end=end, file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return _disk_message(error)
    return f"{type(error).__name__}: {_first_line(error)}"


def _disk_message(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}: free some space and run again"
    return f"cannot write{where}: {error.strerror}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _exit(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)
