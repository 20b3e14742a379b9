"""Holds the estimate of a training's memory against what the training takes.

    python -m benchmarks.memory                   # all of them
    python -m benchmarks.memory "grpo, 26M, LoRA"    # some, by name

Small models of several sizes train for two steps on the CPU, each in processes of its own whose largest resident size
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
LORA: dict[str, Any] = {"lora_r": 16, "freeze_vision": True}
MIXED: dict[str, Any] = {"bf16": True, "gradient_checkpointing": True}
M26, M150 = {"hidden_size": 512, "num_hidden_layers": 8}, {"hidden_size": 1024, "num_hidden_layers": 12}
# The last ones have few activations: what is kept for every parameter is what counts there.
SMALL: dict[str, Any] = {**RL, "per_device_train_batch_size": 1, "num_generations": 2, "max_completion_length": 16}
TRAININGS: dict[str, tuple[dict[str, int], dict[str, Any], int]] = {
    "sft, 2M": ({"hidden_size": 256}, {"per_device_train_batch_size": 32}, 1),
    "sft, 26M": (M26, {"per_device_train_batch_size": 16}, 1),
    "grpo, 2M": ({"hidden_size": 256}, {"per_device_train_batch_size": 8, **RL}, 1),
    "grpo, 26M": (M26, {"per_device_train_batch_size": 8, **RL}, 1),
    "grpo, 26M, no reference": (M26, {"per_device_train_batch_size": 4, **RL, "beta_max": 0.0, "beta_min": 0.0}, 1),
    "grpo, 26M, LoRA": (M26, {"per_device_train_batch_size": 8, **RL, **LORA}, 1),
    "grpo, 150M": (M150, {"per_device_train_batch_size": 2, **RL}, 1),
    "grpo, 150M, short": (M150, SMALL, 1),
    "grpo, 150M, short, LoRA": (M150, {**SMALL, **LORA}, 1),
    "grpo, 150M, short, bf16": (M150, {**SMALL, **MIXED}, 1),
    "grpo, 150M, short, 2 of ddp": (M150, SMALL, 2),
    "grpo, 150M, short, 2 of fsdp": (M150, {**SMALL, "strategy": "fsdp"}, 2),
}


def main(wanted: list[str]) -> None:
    for name in wanted:
        processes = TRAININGS[name][2]
        launch = (
            [] if processes == 1 else ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        )
        done = subprocess.run(
            [sys.executable, "-m", *launch, "benchmarks.memory", "--one", name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{name}: {done.stderr}")
        told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"estimated"')]
        found = max(told, key=lambda process: process["measured"])
        ratio = found["estimated"] / found["measured"]
        size = f"{found['parameters'] / 1e6:.1f}M parameters"
        print(f"{name:30} {size:18} estimated {found['estimated'] / 1e9:.2f} GB, ", end="")
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
    sizes, settings, processes = TRAININGS[name]
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
    strategy = settings.get("strategy", "ddp")
    job = Job(shape_of(model.config.to_dict()), settings, side * side, processes=processes, strategy=strategy)
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
    if sys.argv[1:2] == ["--one"]:
        with tempfile.TemporaryDirectory() as temporary:
            print(json.dumps(one(sys.argv[2], Path(temporary))), flush=True)
    else:
        main(sys.argv[1:] or list(TRAININGS))
