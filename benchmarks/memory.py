"""Holds the estimate of a training's memory against what the training takes.

    python -m benchmarks.memory

Small models of several sizes train for two steps on the CPU, each in a process of its own whose largest resident size
counts. Prints a line a training: estimated, measured, ratio.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RL: dict[str, Any] = {"num_generations": 8, "max_completion_length": 64, "beta_max": 0.1, "beta_min": 0.04}
TRAININGS: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    "sft, 2M": ({"hidden_size": 256}, {"per_device_train_batch_size": 32}),
    "sft, 26M": ({"hidden_size": 512, "num_hidden_layers": 8}, {"per_device_train_batch_size": 16}),
    "grpo, 2M": ({"hidden_size": 256}, {"per_device_train_batch_size": 8, **RL}),
    "grpo, 26M": ({"hidden_size": 512, "num_hidden_layers": 8}, {"per_device_train_batch_size": 8, **RL}),
    "grpo, 26M, no reference": (
        {"hidden_size": 512, "num_hidden_layers": 8},
        {"per_device_train_batch_size": 4, **RL, "beta_max": 0.0, "beta_min": 0.0},
    ),
    "grpo, 150M": ({"hidden_size": 1024, "num_hidden_layers": 12}, {"per_device_train_batch_size": 2, **RL}),
}


def main() -> None:
    for name in TRAININGS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", name], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{name}: {done.stderr}")
        found = json.loads(done.stdout.splitlines()[-1])
        ratio = found["estimated"] / found["measured"]
        size = f"{found['parameters'] / 1e6:.1f}M parameters"
        print(f"{name:26} {size:18} estimated {found['estimated'] / 1e9:.2f} GB, ", end="")
        print(f"measured {found['measured'] / 1e9:.2f} GB, ratio {ratio:.2f}  ({found['parts']})", flush=True)


def one(name: str, folder: Path) -> dict[str, Any]:
    """Train as `name` says, in this process."""
    import torch
    from PIL import Image

    from othink_mr1.grpo import GRPODConfig, GRPODTrainer
    from othink_mr1.models.shape import shape_of
    from othink_mr1.models.tiny import build_model, build_processor
    from othink_mr1.sft import SFTConfig, SFTTrainer
    from othink_mr1.training.estimate import Job, estimate

    torch.set_num_threads(2)
    sizes, settings = TRAININGS[name]
    question, side = "How many items are there?", 128
    processor = build_processor([question, "<think> 1 2 3 </think> <answer> 3 </answer>"], picture_side=side)
    samples = [
        {
            "sample_id": str(number), "task": "counting", "problem": question, "solution": "<answer> 3 </answer>",
            "image": Image.new("RGB", (side, side), (number, 0, 0)), "thinking": "1 2 3",
        }
        for number in range(64)
    ]  # fmt: skip
    common: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 2, "save_strategy": "no", "use_cpu": True,
        "dataloader_pin_memory": False, "learning_rate": 1e-5, "logging_steps": 1,
    }  # fmt: skip
    model = build_model(processor, **sizes)
    job = Job(shape_of(model.config.to_dict()), settings, side * side)
    if job.rl:
        GRPODTrainer(model, GRPODConfig(**common, **settings), processor, samples).train()
    else:
        SFTTrainer(model, SFTConfig(**common, **settings, target="thinking"), processor, samples).train()
    found = estimate(job)
    measured = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "estimated": found.bytes, "measured": measured, "parts": found.parts(), "parameters": job.shape.parameters,
    }  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as temporary:
            print(json.dumps(one(sys.argv[1], Path(temporary))))
    else:
        main()
