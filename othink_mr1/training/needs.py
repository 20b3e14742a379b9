"""What the estimate of a training asks of this machine and of the data."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from othink_mr1 import machine
from othink_mr1.models.processor import Processor
from othink_mr1.models.shape import shape_of
from othink_mr1.training.estimate import Job

_LOOKED_AT = 32  # pictures; opening all of them would take longer than the first steps


def job_of(
    base: Path, processor: Processor, samples: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], threads: int
) -> Job:
    """The training of `base` on `samples`, with the largest of the first pictures, as one of the launched processes.

    Args:
        settings: of the method, and `strategy` of several processes.
    """
    limits = processor.image_processor.size
    sizes = [samples[number]["image"].size for number in range(min(len(samples), _LOOKED_AT))]
    largest = max((width * height for width, height in sizes), default=0)
    pixels = min(max(largest, limits["shortest_edge"]), limits["longest_edge"])
    shape = shape_of(json.loads((base / "config.json").read_text(encoding="utf-8")))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    processes, strategy = int(os.environ.get("WORLD_SIZE", "1")), settings.get("strategy", "ddp")
    return Job(shape, settings, pixels, len(samples), device, threads, processes=processes, strategy=strategy)


def memory_of_device() -> tuple[float, str, int]:
    """Bytes of memory where training runs, its name, and how many of the launched processes share it."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, torch.cuda.get_device_name(), 1
    return machine.memory() or float("inf"), "this machine", int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
