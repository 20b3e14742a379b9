"""What this machine has: how many stages may run side by side on it."""

import os
import queue
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from othink_mr1.machine import cores


def gpus() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them. torch is not asked."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    devices = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(devices))] if listing.returncode == 0 else []


class Slots:
    """Places for stages: one a GPU where there are GPUs, else as many as the cores feed.

    Args:
        threads: CPU threads of one stage.
        max_parallel: `flow.max_parallel` of params.yaml; None leaves the number to the machine.
    """

    def __init__(self, threads: int, max_parallel: int | None) -> None:
        devices = gpus()
        self.count = max_parallel or len(devices) or max(1, cores() // threads)
        self._free: queue.Queue[str | None] = queue.Queue()
        for place in range(self.count):
            self._free.put(devices[place % len(devices)] if devices else None)

    @contextmanager
    def take(self) -> Iterator[dict[str, str]]:
        """Wait for a place; yields the environment variables that go with it."""
        device = self._free.get()
        try:
            yield {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        finally:
            self._free.put(device)
