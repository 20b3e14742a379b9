"""One process of a training on `tests.training.test_training`'s samples: python -m tests.training.worker JOB.json.

The job names the trainer's kind, the base, the settings and where things go; `stop_at` ends the run as SIGTERM would.
"""

import json
import sys
from pathlib import Path

import accelerate
import torch
from torch.distributed.fsdp import FSDPModule

from othink_mr1.training.fingerprint import Home
from othink_mr1.training.run import Outputs, run
from tests.training.test_training import Reporter, trainer_of


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    accelerate.PartialState(cpu=True)
    made = []
    sampled: dict[int, list[dict]] = {}

    def make(callbacks: list) -> object:
        trainer = trainer_of(job["kind"], Path(job["base"]), Path(job["checkpoints"]), **job["settings"])(callbacks)
        if job["kind"] != "sft":
            trainer.record = lambda step, rows: sampled.update({step: rows})
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
        "history": trainer.state.log_history,
        "sampled": sampled,
    }
    Path(f"{job['name']}-{trainer.args.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
