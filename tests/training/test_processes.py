"""Two processes (gloo, on the CPU) against one on the same global batch: the same completions and the same curve."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from othink_mr1.training.deepspeed_config import READY
from othink_mr1.training.run import Outputs
from tests.training.test_training import base
from tests.training.test_training import weights as bits

__all__ = ["base"]  # the fixture
REPO = Path(__file__).parents[2]
WITH_DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install -e '.[deepspeed]'"
)
ZERO = [{"strategy": "deepspeed", "deepspeed": {"zero_optimization": {"stage": stage}}} for stage in (1, 2)]
EVALUATION = {"eval_strategy": "steps", "eval_steps": 2, "eval_max_new_tokens": 4}
SOME_EQUAL = {"reward_funcs": ["tests.training.test_grpo_options:length_for_some"], "reward_weights": [1.0]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(
    name: str, base: Path, processes: int, kind: str, stop_at: int = -1, bad: str | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """What each process tells of its training."""
    job = {"name": name, "kind": kind, "base": str(base), "checkpoints": f"ck-{name}", "settings": settings}
    Path(f"{name}.job").write_text(json.dumps({**job, "stop_at": stop_at, "bad": bad}))
    launcher = [sys.executable]
    if processes > 1:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    command = [*launcher, "-m", "tests.training.worker", f"{name}.job"]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        _, told = started.communicate(timeout=200)
    finally:  # a launcher that is killed would leave processes that wait for each other
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 0, told[-6000:]
    return [json.loads(Path(f"{name}-{rank}.json").read_text()) for rank in range(processes)]


def steps(told: dict[str, Any], names: tuple[str, ...]) -> list[float]:
    return [entry[name] for entry in told["history"] for name in names if name in entry]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("grpo_d", {"strategy": "ddp"}),
        ("grpo_d", {"strategy": "fsdp"}),
        pytest.param(
            "grpo_d",
            {"strategy": "ddp", "lora_r": 4, "freeze_vision": True, "num_iterations": 2},
            marks=pytest.mark.slow,
        ),
        pytest.param("grpo_d", {"strategy": "ddp", "dynamic_sample": True, **SOME_EQUAL}, marks=pytest.mark.slow),
        pytest.param("grpo_d", {"strategy": "fsdp", "lora_r": 4, "kl_schedule": "adaptive"}, marks=pytest.mark.slow),
        pytest.param(
            "grpo_d",
            {"strategy": "fsdp", "freeze_vision": True, "loss_type": "dapo", "scale_rewards": "batch"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "sft", {"strategy": "ddp", "gradient_accumulation_steps": 2, "target": "thinking"}, marks=pytest.mark.slow
        ),
        pytest.param("sft", {"strategy": "fsdp"}, marks=pytest.mark.slow),
        pytest.param("grpo_d", ZERO[0], marks=[pytest.mark.slow, WITH_DEEPSPEED]),
        pytest.param("grpo_d", ZERO[1], marks=[pytest.mark.slow, WITH_DEEPSPEED]),
        pytest.param(
            "grpo_d",
            {"strategy": "deepspeed", "lora_r": 4, "freeze_vision": True, "num_iterations": 2, "max_grad_norm": 0.0},
            marks=[pytest.mark.slow, WITH_DEEPSPEED],
        ),
        pytest.param(
            "sft",
            {"strategy": "deepspeed", "gradient_accumulation_steps": 2},
            marks=[pytest.mark.slow, WITH_DEEPSPEED],
        ),
    ],
)
def test_two_processes_are_one(kind: str, settings: dict[str, Any], base: Path) -> None:
    options = {**settings, **EVALUATION, "max_steps": 3, "learning_rate": 1e-4, "save_steps": 3}
    (one,) = train("one", base, 1, kind, per_device_train_batch_size=2, **options)
    two = train("two", base, 2, kind, per_device_train_batch_size=1, **options)
    assert [told["world_size"] for told in two] == [2, 2]
    if settings["strategy"] == "ddp":
        assert two[0]["wrapper"] == "DistributedDataParallel"
    elif settings["strategy"] == "deepspeed":
        stage = settings.get("deepspeed", READY)["zero_optimization"]["stage"]
        assert (two[0]["wrapper"], two[0]["zero_stage"]) == ("DeepSpeedEngine", stage)
    else:
        assert two[0]["wrapper"].startswith("FSDP")
        assert two[0]["sharded_blocks"] == 5  # two layers, two vision blocks and the whole
    names = ("loss", "grad_norm", "num_tokens", "eval_accuracy", "eval_format", "entropy", "kl", "beta", "reward",
             "reward_std", "rewards/likes_early_tokens/std", "completions/mean_length")  # fmt: skip
    assert steps(two[0], names) == pytest.approx(steps(one, names), rel=1e-5, abs=1e-5)
    assert len(steps(two[0], ("loss",))) == 3
    for step, rows in one["sampled"].items():
        texts = [{(row["sample_id"], row["completion"]) for row in found} for found in (rows, two[0]["sampled"][step])]
        assert texts[0] == texts[1]
    assert not two[1]["sampled"]
    expected = load_file(Outputs("one").model / "model.safetensors")
    for name, value in load_file(Outputs("two").model / "model.safetensors").items():
        assert value.numpy() == pytest.approx(expected[name].numpy(), abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("grpo_d", {"strategy": "ddp", "num_iterations": 2, "logging_steps": 3}),
        ("grpo_d", {"strategy": "fsdp", "gradient_accumulation_steps": 2}),
        ("sft", {"strategy": "fsdp", "lora_r": 4}),
        pytest.param(
            "grpo_d", {"strategy": "deepspeed", "num_iterations": 2, "logging_steps": 3}, marks=WITH_DEEPSPEED
        ),
        pytest.param("sft", {"strategy": "deepspeed", "lora_r": 4}, marks=WITH_DEEPSPEED),
    ],
)
def test_a_stopped_training_of_two_processes_ends_with_the_same_bits(kind: str, settings: Any, base: Path) -> None:
    train("whole", base, 2, kind, per_device_train_batch_size=1, **settings)
    train("parts", base, 2, kind, per_device_train_batch_size=1, stop_at=1, **settings)
    assert not Outputs("parts").model.exists()
    train("parts", base, 2, kind, per_device_train_batch_size=1, **settings)
    assert bits(Outputs("parts").model) == bits(Outputs("whole").model)
    assert Outputs("parts").curves.read_text() == Outputs("whole").curves.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "weights"),
    [
        ("ddp", "torch.float32"),
        ("fsdp", "torch.float32"),
        pytest.param("deepspeed", "torch.bfloat16", marks=WITH_DEEPSPEED),
    ],
)
def test_half_precision_is_that_of_every_pass(strategy: str, weights: str, base: Path) -> None:
    """Where nothing is learned the policy is the reference, to the last bit."""
    options = {"strategy": strategy, "bf16": True, "learning_rate": 0.0, "save_strategy": "no"}
    told = train("half", base, 2, "grpo_d", per_device_train_batch_size=1, **options)
    assert steps(told[0], ("kl",)) == [0.0] * 4
    assert told[0]["weights"] == weights
    assert all(norm > 0 for norm in steps(told[0], ("grad_norm",)))


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", pytest.param("deepspeed", marks=WITH_DEEPSPEED)])
def test_what_is_not_finite_in_one_process_is_dropped_in_all(strategy: str, bad: str, base: Path) -> None:
    """In the second process, at the second of four steps; the schedule goes on."""
    options = {"lr_scheduler_type": "linear", "save_strategy": "no", "per_device_train_batch_size": 1}
    told = train("bad", base, 2, "sft", bad=bad, strategy=strategy, **options)
    assert steps(told[0], ("skipped_steps",)) == [1, 1, 1]
    assert steps(told[0], ("learning_rate",)) == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    for rank in told:
        assert rank["changed"] == [True, False, True, True]
