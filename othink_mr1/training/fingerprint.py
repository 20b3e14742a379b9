"""Which run a checkpoint belongs to: a run with other settings, inputs or code never goes on from it."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers

from othink_mr1.digests import file_digest, folder_digest
from othink_mr1.stages import write_whole
from othink_mr1.training.checkpoints import newest

CHECKPOINTS = Path(".othink/checkpoints")
_ORIGIN = "origin.json"
# What may have changed where a run goes on all the same because that was asked for.
_CODE = ("code", "versions")


@dataclass(frozen=True)
class Home:
    """Where a run keeps its checkpoints.

    Attributes:
        resumed_anyway: the steps at which the run went on after a change of code, with what had changed.
    """

    folder: Path
    resumed_anyway: tuple[tuple[int, str], ...] = ()


def origin(settings: Any, inputs: Iterable[Path]) -> dict[str, Any]:
    """What decides the bits of a run: code, settings, input files, threads, processes and device.

    The code is that of every module of this project that is loaded: call it after the imports.
    """
    files = {
        name: str(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] in ("othink_mr1", "steps", "__main__") and getattr(module, "__file__", None)
    }
    found = {
        "code": {name: file_digest(Path(file)) for name, file in files.items()},
        "settings": settings,
        "inputs": {str(path): folder_digest(path) if path.is_dir() else file_digest(path) for path in inputs},
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": numpy.__version__},
    }
    # As it will be read again: tuples become lists.
    return json.loads(json.dumps(found, sort_keys=True))


def home(stage: str, settings: Any, inputs: Iterable[Path], resume_anyway: bool = False) -> Home:
    """The folder, made if need be, of the checkpoints of a run with these settings, inputs and code.

    Args:
        stage: name of the stage.
        settings: what the run's result depends on beside inputs and code; goes through JSON.
        inputs: files and folders that the run reads.
        resume_anyway: where there is no checkpoint of this code, go on from one that only other code has made.
    """
    mine = origin(settings, inputs)
    name = hashlib.sha256(json.dumps(mine, sort_keys=True).encode()).hexdigest()[:16]
    folder = CHECKPOINTS / f"{stage}-{name}"
    earlier = [] if _checkpoints(folder) else [found for found in siblings(folder) if _checkpoints(found)]
    for other in sorted(earlier, key=lambda found: found.stat().st_mtime, reverse=True):
        recorded = _read(other)
        changed = [key for key in mine if mine[key] != recorded.get(key)]
        if resume_anyway and set(changed) <= set(_CODE) and (last := newest(other)) is not None:
            step, what = int(last.name.rpartition("-")[2]), _changes(mine, recorded)
            print(f"going on from step {step} although code has changed: {what}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(other, folder)
            _write(folder, mine, [*recorded.get("resumed_anyway", []), [step, what]])
            break
        told = ", ".join(key for key in changed if key not in _CODE) or f"code: {_changes(mine, recorded)}"
        if "settings" in changed and recorded:
            told = told.replace("settings", _settings_changed(recorded["settings"], mine["settings"]), 1)
        if "processes" in changed and recorded:
            before, now = recorded.get("processes"), mine["processes"]
            told += f": {before} before and {now} now, which sum in another order and would not end with the same bits"
        print(f"{other}: another run's checkpoints ({told}); not used", flush=True)
    if not (recorded := _read(folder)):
        _write(folder, mine, [])
    return Home(folder, tuple((step, what) for step, what in recorded.get("resumed_anyway", [])))


def siblings(folder: Path) -> list[Path]:
    """The checkpoint folders of the same stage's runs with another origin."""
    stage = folder.name.rpartition("-")[0]
    found = folder.parent.glob(f"{stage}-*")
    return [path for path in found if path.name.rpartition("-")[0] == stage and path != folder]


def _checkpoints(folder: Path) -> bool:
    return any(folder.glob("checkpoint-*"))


def _changes(mine: Mapping[str, Any], recorded: Mapping[str, Any]) -> str:
    """The modules and packages that are not as they were."""
    names = []
    for key in _CODE:
        before = recorded.get(key) or {}
        names += [name for name in sorted({*mine[key], *before}) if mine[key].get(name) != before.get(name)]
    return ", ".join(names)


def _settings_changed(before: Any, now: Any) -> str:
    """The first few settings that are not as they were."""
    old, new = _leaves(before), _leaves(now)
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    told = [f"{name} {old.get(name, 'not set')} before, {new.get(name, 'not set')} now" for name in names[:3]]
    return "; ".join([*told, *([f"and {len(names) - 3} more"] if len(names) > 3 else [])])


def _leaves(settings: Any, name: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    if not isinstance(settings, dict):
        return {name or "settings": settings}
    inner = [_leaves(value, f"{name}.{key}" if name else str(key)) for key, value in settings.items()]
    return {key: value for part in inner for key, value in part.items()}


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    return found if isinstance(found, dict) else {}


def _write(folder: Path, mine: Mapping[str, Any], resumed_anyway: list[Any]) -> None:
    write_whole(folder / _ORIGIN, json.dumps({**mine, "resumed_anyway": resumed_anyway}, indent=1))
