"""dvc.lock while other stages run: DVC writes it in place, so that a reader can meet half of it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from othink_mr1 import config, dvc_lock, stages
from othink_mr1.errors import UserError

T = TypeVar("T")
_GOOD = Path("dvc.lock.whole")


def read(root: Path) -> dict[str, Any]:
    """The stages of dvc.lock, each as DVC wrote it; empty where there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = root / "dvc.lock"
    found = _patiently(lambda: _parsed(path.read_text()) if path.exists() else {})
    if found is None:
        raise UserError("dvc.lock cannot be read: restore it with `git checkout dvc.lock`, or delete it")
    return found


def digests(root: Path, name: str) -> dvc_lock.StageDigests | None:
    """What DVC recorded of a stage that has just ended well, while others may be writing; None if it never appears."""
    return _patiently(lambda: dvc_lock.read_stage(root, name))


def keep(root: Path, name: str) -> None:
    """Keep a copy of dvc.lock for `repair`, if it is whole: it holds the stage that has just ended."""
    try:
        text = (root / "dvc.lock").read_text()
    except OSError:
        return
    found = _parsed(text)
    if found is not None and name in found and text.endswith("\n"):
        stages.write_whole(root / stages.WORK / _GOOD, text)


def repair(root: Path) -> bool:
    """Take back the last whole dvc.lock where a kill left half of one; whether that was so. No DVC may be running."""
    lockfile, good = root / "dvc.lock", root / stages.WORK / _GOOD
    if not lockfile.is_file() or not good.is_file() or _parsed(lockfile.read_text(errors="replace")) is not None:
        return False
    stages.write_whole(lockfile, good.read_text())
    return True


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        # DVC writes 3e-05, which PyYAML alone would read as a text.
        return dict(config.parse_yaml(text)["stages"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return None


def _patiently(look: Callable[[], T | None]) -> T | None:
    """Look until two looks in a row find the same, at most for some seconds."""
    last = look()
    for _ in range(50):
        time.sleep(0.02)
        found = look()
        if found is not None and found == last:
            return found
        last = found
    return None
