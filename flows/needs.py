"""What each training of a plan will need of memory and time, from the parameters alone: torch is not imported."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.plan import RUN
from flows.request import Request
from othink_mr1 import machine
from othink_mr1.errors import UserError
from othink_mr1.models.folder import check_model_folder
from othink_mr1.models.shape import KNOWN, TINY, Shape, shape_of
from othink_mr1.training.estimate import Estimate, Job, estimate, in_words, memory_in_words, savings

# 512 x 512 in 32 bits, the fastest of ten: arithmetic alone, and a few milliseconds of it.
_PRODUCT = """
import time
import numpy
a = numpy.random.default_rng(0).random((512, 512), numpy.float32)
def seconds():
    began = time.perf_counter()
    a @ a
    return time.perf_counter() - began
print(2 * 512**3 / min(seconds() for _ in range(10)))
"""
# Pixels of the tiny model's pictures, whatever they were; and of others where no setting limits them.
_TINY_PIXELS, _USUAL_PIXELS = 64 * 64, 1024 * 1024


@dataclass(frozen=True)
class Device:
    """What trains here: "cpu" or a GPU's name, the bytes of memory of one, None where they are not known."""

    name: str
    memory: float | None
    count: int


def trainings(wanted: Request) -> dict[str, dict[str, Any]]:
    """What the trainings that would run need: step -> bytes, of which needed, seconds, steps, fits, text.

    Of several processes the bytes are each one's. A base model whose sizes are not known before it is fetched has no
    estimates.
    """
    here, found, speed = _device(), {}, 0.0
    sharing = _sharing(wanted, here)
    for name, job in _jobs(wanted, here).items():
        if here.name == "cpu":
            speed = speed or _speed_of_a_thread() * min(1.0, machine.cores() / (job.threads * sharing))
            job = replace(job, speed=speed)
        needs = estimate(job)
        found[name] = {
            "bytes": round(needs.bytes),
            "needed": round(needs.needed),
            "steps": needs.steps,
            "seconds": None if needs.seconds is None else round(needs.seconds),
            "fits": here.memory is None or needs.bytes * sharing <= here.memory,
            "text": _text(job, needs, here, sharing),
        }
    return found


def refuse_what_cannot_fit(wanted: Request) -> None:
    """Before the first step: hours may lie before a training.

    Raises:
        UserError: a training that is to run on this machine does not fit into its memory; the message has the numbers.
    """
    if "train" in wanted.settings.pools or not _trainings(wanted):  # a worker's machine is another one
        return
    here = _device()
    sharing = _sharing(wanted, here)
    for name, job in _jobs(wanted, here).items():
        needs = estimate(job)
        if here.memory is not None and needs.needed * sharing > here.memory:
            raise UserError(f"{name} needs {'; '.join([_memory(job, needs, here, sharing), *savings(job)])}")


def _trainings(wanted: Request) -> list[str]:
    """The steps that would train."""
    return [name for name, step in wanted.steps.items() if name.startswith("train@") and step.action == RUN]


def _jobs(wanted: Request, here: Device) -> dict[str, Job]:
    params, launch = wanted.params, wanted.params["training"]["launch"]
    shape = _shape(params, wanted.root)
    if shape is None:
        return {}
    processes, precision = launch["processes"] * launch["machines"], launch["mixed_precision"]
    found = {}
    for name in _trainings(wanted):
        method, _, task = name.partition("@")[2].partition("-")
        settings = params["train"][method][task]
        if precision is not None:
            settings = {**settings, "bf16": precision == "bf16"}
        rows, pixels = _rows(wanted.root, params["data"][task], task), _pixels(params["base"], params["data"][task])
        found[name] = Job(
            shape, settings, pixels, rows, here.name, params["threads"],
            processes=processes, strategy=launch["strategy"],
        )  # fmt: skip
    return found


def _sharing(wanted: Request, here: Device) -> int:
    """How many processes have this machine's memory together; of GPUs each has one."""
    return int(wanted.params["training"]["launch"]["processes"]) if here.name == "cpu" else 1


def _text(job: Job, needs: Estimate, here: Device, sharing: int) -> str:
    text, told = _memory(job, needs, here, sharing), [_time(job, needs)]
    if here.memory is not None and needs.bytes * sharing > here.memory:
        told += savings(job)
    if job.kind != "cpu" and job.processes > here.count:
        told.append(f"{here.count} of these GPUs here")
    return "; ".join([text, *told])


def _memory(job: Job, needs: Estimate, here: Device, sharing: int) -> str:
    text = f"about {memory_in_words(job, needs)}"
    fits = here.memory is None or needs.bytes * sharing <= here.memory
    if here.memory is not None and not fits:
        verdict = "does not fit" if needs.needed * sharing > here.memory else "may not fit"
        whose = f" that {sharing} processes share" if sharing > 1 else ""
        text += f", which {verdict} into {in_words(here.memory)}{whose}"
    return text if fits and job.processes == 1 else f"{text} ({needs.parts()})"


def _time(job: Job, needs: Estimate) -> str:
    if needs.steps is None:
        return "time unknown before the data are read"
    if needs.seconds is None:
        return f"{needs.steps} steps, time unknown for a {job.device}"
    by = "by this machine's arithmetic" if job.kind == "cpu" else f"by a {job.device}'s data sheet"
    left = "validation" if job.processes == 1 else "validation and what the processes send to each other"
    return f"{_duration(needs.seconds)} for {needs.steps} steps {by}, {left} left out"


def _speed_of_a_thread() -> float:
    """Operations a second of one thread in a product of matrices, measured in a process of its own."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _PRODUCT], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


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
    """Rows to train on: what settings say, else what was prepared last from the same source."""
    rows, limit = data["train"].get("rows"), data.get("train_samples")
    if rows is None:
        try:
            told = json.loads((root / "data" / task / "provenance.json").read_text(encoding="utf-8"))
            train = told["splits"]["train"]
            rows = train["read"] if train["source"] == data["train"] else None
        except (OSError, ValueError, KeyError, TypeError):
            pass
    known = [int(number) for number in (rows, limit) if number is not None]
    return min(known, default=None)


def _device() -> Device:
    """The GPUs, else the CPU and the machine's memory."""
    if shutil.which("nvidia-smi") is not None:
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        gpus = done.stdout.splitlines()
        name, _, mebibytes = gpus[0].rpartition(",") if gpus else ("", "", "")
        if done.returncode == 0 and mebibytes.strip().isdigit():
            return Device(name.strip(), float(mebibytes) * 2**20, len(gpus))
    return Device("cpu", machine.memory(), 1)
