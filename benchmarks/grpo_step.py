"""Times a GRPO step of this project beside TRL's, on a small Qwen2-VL and on the same work.

    python -m benchmarks.grpo_step --peer trl --shape r1v --json

Both run in processes of their own and take turns, a step each, so that a busy machine troubles both alike. Printed
are medians over the steps after the first, peak memory above what a process holds once its imports are done and the
model is loaded, and how near the passes come to the matrix throughput of this machine.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.grpo_sides import Shape
from benchmarks.pacing import Side

SHAPES = {
    "small": {"picture_side": 256, "completion": 64},
    "r1v": {"picture_side": 368, "completion": 64},
    "long": {"picture_side": 512, "completion": 256},
}
_PASSES = ("step", "rollout", "reference", "training")


def measure(shape: Shape, steps: int, names: list[str]) -> dict[str, Any]:
    """Medians of `steps` paired steps, after one that warms up and before one whose operations are counted."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(shape).items()]
    sides = {
        name: Side("benchmarks.grpo_sides", shape.threads, name, f"--steps={steps + 2}", *arguments) for name in names
    }
    try:
        turns = [{name: side.step() for name, side in sides.items()} for _ in range(steps + 1)][1:]
        counted = {name: side.step("count") for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.close()
    peak = matrix_throughput(shape.threads)
    found = {name: _summary([t[name] for t in turns], counted[name], sides[name].facts, shape, peak) for name in names}
    return found | {"matrix_gflops": peak / 1e9}


def _summary(
    turns: list[dict[str, Any]], counted: dict[str, Any], facts: dict[str, Any], shape: Shape, peak: float
) -> dict[str, Any]:
    seconds, operations = _medians(turns), _medians([counted])
    tokens = shape.prompts * shape.group * shape.completion
    return {
        "step_s": seconds["step"],
        "phases_s": {name: value for name, value in seconds.items() if name != "step"},
        "gflop": {name: value / 1e9 for name, value in operations.items() if name in seconds},
        "roofline": {
            name: operations.get(name, 0) / peak / value for name, value in seconds.items() if name in _PASSES
        },
        "sampled_tokens_per_s": tokens / seconds["step"],
        "memory_mb": max(turn["peak_mb"] for turn in turns) - facts["baseline_mb"],
        "prompt_tokens": facts["prompt_tokens"],
        "parameters": facts["parameters"],
    }


def _medians(turns: list[dict[str, Any]]) -> dict[str, float]:
    """Of whole steps and their phases; `training` is what is no other phase: forward, backward and optimiser."""
    found = {"step": statistics.median(turn["step"] for turn in turns)}
    for name in turns[-1]["phases"]:
        found[name] = statistics.median(turn["phases"].get(name, 0.0) for turn in turns)
    found["training"] = found["step"] - sum(value for name, value in found.items() if name != "step")
    return found


def matrix_throughput(threads: int, size: int = 1536, repeats: int = 5) -> float:
    """Floating-point operations a second of this machine's float32 matrix product, the best of a few."""
    torch.set_num_threads(threads)
    one, other = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        one @ other
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grpo_step", description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=("trl", "none"), default="trl", help="whom to run beside (none: ours alone)")
    parser.add_argument("--shape", choices=SHAPES, default="r1v", help="size of picture and completion")
    parser.add_argument("--group", type=int, default=8, help="G, completions of a prompt")
    parser.add_argument("--prompts", type=int, default=2, help="prompts of a step, one a micro-batch")
    parser.add_argument("--steps", type=int, default=5, help="steps that are measured, after one that is not")
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1), help="of each side")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    shape = Shape(**SHAPES[chosen.shape], group=chosen.group, prompts=chosen.prompts, threads=chosen.threads)
    found = measure(shape, chosen.steps, ["ours"] if chosen.peer == "none" else ["ours", chosen.peer])
    result = {"shape": chosen.shape, **asdict(shape), **_beside(found), **found}
    print(json.dumps(result) if chosen.json else json.dumps(result, indent=1))


def _beside(found: dict[str, Any]) -> dict[str, Any]:
    ours, peer = found["ours"], found.get("trl")
    if peer is None:
        return {"ours_s": ours["step_s"], "ours_mb": ours["memory_mb"]}
    return {
        "ours_s": ours["step_s"],
        "peer_s": peer["step_s"],
        "ratio": peer["step_s"] / ours["step_s"],
        "ours_mb": ours["memory_mb"],
        "peer_mb": peer["memory_mb"],
        "memory_ratio": ours["memory_mb"] / peer["memory_mb"],
    }


if __name__ == "__main__":
    main()
