"""The project folder that a command works in, and the environment that its subprocesses get."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from othink_mr1 import processes
from othink_mr1.errors import UserError

_MARKS = ("dvc.yaml", "steps/resolve.py")


def find_root(start: Path | None = None) -> Path:
    """The project's folder: the nearest one at or above `start` (default: the current folder).

    Raises:
        UserError: there is none, so the command was called outside the project.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if all((folder / mark).is_file() for mark in _MARKS):
            return folder
    raise UserError(f"{here}: not inside the project (no folder here or above holds {' and '.join(_MARKS)})")


def check_tools(root: Path) -> None:
    """Make sure that what a run needs is there.

    Raises:
        UserError: git or DVC is missing, or the folder is no git repository.
    """
    if shutil.which("git") is None:
        raise UserError("git is missing: DVC needs it; install git and run again")
    done = subprocess.run(["git", "rev-parse", "--git-dir"], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{root}: not a git repository, which DVC needs; use a clone, or run `git init` there")
    import importlib.util

    if importlib.util.find_spec("dvc") is None:
        raise UserError("dvc is missing: install the project with `make`, or `pip install -e '.[pipeline]'`")
    if not (root / ".dvc").is_dir():
        raise UserError(f"{root}: the folder .dvc is missing; use a whole clone, or run `dvc init` there")


def step_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a stage: this Python first on the PATH, and this process as the owner of what runs.

    The stages say `python` and so mean the environment that `othink` runs in, whether it was activated or not.
    """
    first = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{first}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "OTHINK_OWNER": str(processes.current()),
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
        "NO_COLOR": "1",
        **(extra or {}),
    }


def prepare_prefect(root: Path) -> bool:
    """Settle where Prefect keeps its records, before it is imported.

    A server that the user's environment or active profile names is used as it is. Without one the records lie in the
    project, under `.othink/prefect`, whatever else the profile sets, and nothing is written to the user's home; where
    `othink ui` runs, its server is used.

    Returns:
        Whether the run needs a server of its own.
    """
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_RESULTS_DEFAULT_SERIALIZER", "json")
    # The command draws its own picture of a run; the log itself goes to Prefect's server and to .othink/logs.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    if os.environ.get("PREFECT_API_URL"):
        return False
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect").expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    if _names_server(profiles):
        return False
    if profiles.exists():
        os.environ.setdefault("PREFECT_PROFILES_PATH", str(profiles))
    os.environ.setdefault("PREFECT_HOME", str(root / ".othink" / "prefect"))
    from othink_mr1 import tracking

    server = tracking.ui_address(root, "prefect")
    if server is None:
        return True
    os.environ["PREFECT_API_URL"] = f"{server.rstrip('/')}/api"
    return False


def _names_server(profiles: Path) -> bool:
    """Whether the active profile says where Prefect's API is. One that does not (as Prefect's own `ephemeral`) would
    make Prefect start a server by itself, which a killed run leaves behind.
    """
    try:
        content = tomllib.loads(profiles.read_text(encoding="utf-8"))
        active = os.environ.get("PREFECT_PROFILE") or content.get("active")
        return bool(content["profiles"][active].get("PREFECT_API_URL"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
