"""What each training of a plan will need of memory and time, from the parameters alone: torch is not imported."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.plan import RUN
from flows.request import Request
from othink_mr1 import machine
from othink_mr1.models.folder import check_model_folder
from othink_mr1.models.shape import KNOWN, TINY, Shape, shape_of
from othink_mr1.training.estimate import Estimate, Job, estimate, in_words, savings

# Pixels of the tiny model's pictures, whatever they were; and of others where no setting limits them.
_TINY_PIXELS, _USUAL_PIXELS = 64 * 64, 1024 * 1024


def trainings(wanted: Request) -> dict[str, dict[str, Any]]:
    """What the trainings that would run need: step -> bytes, of which needed, seconds, steps, fits, text.

    A base model whose sizes are not known before it is fetched has no estimates.
    """
    params = wanted.params
    shape = _shape(params, wanted.root)
    device, memory = _device()
    found = {}
    for name, step in wanted.steps.items():
        kind, _, which = name.partition("@")
        if kind != "train" or step.action != RUN or shape is None:
            continue
        method, _, task = which.partition("-")
        settings = params["train"][method][task]
        rows, pixels = _rows(wanted.root, params["data"][task], task), _pixels(params["base"], params["data"][task])
        job = Job(shape, settings, pixels, rows, device, params["threads"])
        needs = estimate(job)
        found[name] = {
            "bytes": round(needs.bytes),
            "needed": round(needs.needed),
            "steps": needs.steps,
            "seconds": None if needs.seconds is None else round(needs.seconds),
            "fits": memory is None or needs.bytes <= memory,
            "text": _text(job, needs, memory),
        }
    return found


def _text(job: Job, needs: Estimate, memory: float | None) -> str:
    where = "memory" if job.kind == "cpu" else f"memory of {job.device}"
    told = [f"about {in_words(needs.bytes)} of {where}"]
    if needs.seconds is not None:
        told.append(f"{_duration(needs.seconds)} for {needs.steps} steps, validation left out")
    text = ", ".join(told)
    if memory is None or needs.bytes <= memory:
        return text
    verdict = "does not fit" if needs.needed > memory else "may not fit"
    return "; ".join([f"{text}: {verdict} into {in_words(memory)} ({needs.parts()})", *savings(job)])


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, round(seconds))} s"


def _shape(params: Mapping[str, Any], root: Path) -> Shape | None:
    base = params["base"]
    match base["source"]:
        case "tiny":
            return shape_of(TINY)
        case "path":
            folder = Path(params["local"]["paths"]["base"])
            return shape_of(check_model_folder(root / folder)) if (root / folder).exists() else None
        case _:
            return shape_of(KNOWN[base["name"]]) if base["name"] in KNOWN else None


def _pixels(base: Mapping[str, Any], data: Mapping[str, Any]) -> int:
    """At most; how large the pictures of a dataset are is not known before they are read."""
    if base["source"] == "tiny":
        return _TINY_PIXELS
    limit = base.get("max_pixels") or _USUAL_PIXELS
    size = data["train"].get("image_size")
    return min(limit, size * size) if size else limit


def _rows(root: Path, data: Mapping[str, Any], task: str) -> int | None:
    """Rows to train on: what a setting says, else what was prepared last."""
    if data.get("train_samples") or data["train"].get("size"):
        return int(data.get("train_samples") or data["train"]["size"])
    try:
        told = json.loads((root / "data" / task / "provenance.json").read_text(encoding="utf-8"))
        return int(told["splits"]["train"]["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _device() -> tuple[str, float | None]:
    """The name and the memory in bytes of the first GPU, else "cpu" and the machine's."""
    if shutil.which("nvidia-smi") is not None:
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        name, _, mebibytes = done.stdout.partition("\n")[0].rpartition(",")
        if done.returncode == 0 and mebibytes.strip().isdigit():
            return name.strip(), float(mebibytes) * 2**20
    return "cpu", machine.memory()
