"""Which runs this machine has open, so that those of a killed process are closed: MLflow would show them for ever."""

from pathlib import Path

from othink_mr1 import processes
from othink_mr1.tracking.connection import FOLDER, store


def note_open_run(root: Path, run_id: str) -> None:
    """Remember that this process writes to the run, so that a later one can close it if this one is killed."""
    folder = root / FOLDER / "open"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / run_id).write_text(str(processes.current()))


def forget_open_run(root: Path, run_id: str) -> None:
    """The run was closed."""
    (root / FOLDER / "open" / run_id).unlink(missing_ok=True)


def close_abandoned_runs(root: Path) -> None:
    """Close, as killed, the runs whose process is gone."""
    for file in (root / FOLDER / "open").glob("*"):
        owner = processes.parse(file.read_text())
        if owner is None or not owner.alive:
            _close_killed(root, file)


def _close_killed(root: Path, file: Path) -> None:
    closed, _ = store(root).attempt(
        "the end of a killed run", lambda client: client.set_terminated(file.name, "KILLED")
    )
    if closed:
        file.unlink(missing_ok=True)
