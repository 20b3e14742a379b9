"""One process of a training on `tests.training.test_training`'s samples: python -m tests.training.worker JOB.json.

The job names the trainer's kind, the base, the settings and where things go; `stop_at` ends the run as SIGTERM would.
`bad` makes loss or gradient of the last process's second step infinite.
"""

import json
import sys
from pathlib import Path
from typing import Any

import accelerate
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from othink_mr1.training.fingerprint import Home
from othink_mr1.training.run import Outputs, run
from tests.training.test_training import Reporter, trainer_of


class Changes(TrainerCallback):
    """Whether each step has changed the weights."""

    def __init__(self) -> None:
        self.found: list[bool] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before = self.bits(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = self.bits(kwargs["model"])
        self.found.append(now != self.before)
        self.before = now

    @staticmethod
    def bits(model: torch.nn.Module) -> list[bytes]:
        """Of the weights, or of this process's part of them."""
        parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
        return [part.detach().float().numpy().tobytes() for part in parts]


def spoil(trainer: Any, what: str) -> None:
    plain = trainer.compute_loss

    def spoiled(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = plain(*args, **kwargs)
        if trainer.state.global_step != 1:
            return loss
        # An infinite constant leaves the gradient as it is; an infinite factor does not.
        return loss + torch.inf if what == "loss" else loss * torch.inf

    trainer.compute_loss = spoiled


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    accelerate.PartialState(cpu=True)
    made = []
    changes = Changes()
    sampled: dict[int, list[dict]] = {}

    def make(callbacks: list) -> object:
        trainer = trainer_of(job["kind"], Path(job["base"]), Path(job["checkpoints"]), **job["settings"])(callbacks)
        if job["kind"] != "sft":
            trainer.record = lambda step, rows: sampled.update({step: rows})
        if job.get("bad") and trainer.args.process_index == trainer.args.world_size - 1:
            spoil(trainer, job["bad"])
        trainer.add_callback(changes)
        made.append(trainer)
        return trainer

    stop_at = job.get("stop_at", -1) if accelerate.PartialState().is_main_process else -1
    try:
        run(make, Home(Path(job["checkpoints"])), Outputs(job["name"]), Reporter(stop_at))
    except KeyboardInterrupt:
        assert job.get("stop_at")
    trainer = made[0]
    found = {
        "world_size": trainer.args.world_size,
        "wrapper": type(trainer.model_wrapped).__name__,
        "sharded_blocks": sum(isinstance(module, FSDPModule) for module in trainer.model.modules()),
        "zero_stage": trainer.deepspeed.zero_optimization_stage() if trainer.is_deepspeed_enabled else None,
        "weights": str(next(trainer.model.parameters()).dtype),
        "changed": changes.found,
        "history": trainer.state.log_history,
        "sampled": sampled,
    }
    Path(f"{job['name']}-{trainer.args.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
