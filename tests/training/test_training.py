"""GRPO-D and SFT on a small model: what they learn, what they log, and that a killed run ends with the same bits."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from othink_mr1.errors import UserError
from othink_mr1.grpo.config import GRPODConfig
from othink_mr1.grpo.kl import KLSchedule
from othink_mr1.grpo.trainer import GRPODTrainer
from othink_mr1.models.loading import load_model
from othink_mr1.sft import SFTConfig, SFTTrainer
from othink_mr1.training.fingerprint import Home
from othink_mr1.training.run import Outputs, run
from othink_mr1.training.validation import greedy_accuracy
from tests.grpo.families import model, pictures, processor

SAMPLES = [
    {
        "sample_id": str(i),
        "task": "counting",
        "problem": "Count." if i % 2 else "How many items are there?",
        "solution": f"<answer> {1 + i % 3} </answer>",
        "answer": str(1 + i % 3),
        "thinking": "1 2 3",
        "image": picture,
    }
    for i, picture in enumerate(pictures(6))
]
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "max_steps": 4,
    "logging_steps": 1,
    "save_steps": 1,
    "use_cpu": True,
    "dataloader_pin_memory": False,
}
GRPO: dict[str, Any] = {
    "num_generations": 4,
    "max_completion_length": 6,
    "reward_funcs": ["tests.training.test_training:likes_early_tokens"],
    "reward_weights": [1.0],
}


def likes_early_tokens(completions: list[str], solutions: list[str], **columns: Any) -> list[float]:
    """A reward that differs between completions of a random model."""
    assert len(solutions) == len(completions) == len(columns["sample_id"])
    return [float(sum(map(ord, text)) % 7) for text in completions]


def raises(completions: list[str], solutions: list[str], **columns: Any) -> list[float]:
    raise KeyError("column")


def too_few(completions: list[str], solutions: list[str], **columns: Any) -> list[float]:
    return [1.0]


def not_a_number(completions: list[str], solutions: list[str], **columns: Any) -> list[float]:
    return [float("nan")] * len(completions)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tools = processor()
    net = model("qwen2_vl", tools, scale=2.0)
    net.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


class Reporter:
    """Asks the run to stop once `stop_at` steps are done."""

    def __init__(self, stop_at: int = -1) -> None:
        self.stop_requested, self.stop_at = Event(), stop_at
        self.seen: list[tuple[int, int, str]] = []
        self.notes: dict[str, Any] = {}

    def progress(self, done: int, total: int, what: str) -> None:
        self.seen.append((done, total, what))
        if done == self.stop_at:
            self.stop_requested.set()

    def note(self, **facts: Any) -> None:
        self.notes |= facts

    def raise_if_stopped(self) -> None:
        if self.stop_requested.is_set():
            raise KeyboardInterrupt


def trainer_of(kind: str, base: Path, checkpoints: Path, rewards: Any = None, **changes: Any) -> Callable[..., Any]:
    if kind == "sft":
        config: Any = SFTConfig(output_dir=str(checkpoints), **{**COMMON, **changes})
        return lambda callbacks: SFTTrainer(
            load_model(base), config, processor(), SAMPLES, SAMPLES[:2], callbacks, greedy_accuracy
        )
    config = GRPODConfig(output_dir=str(checkpoints), **{**COMMON, **GRPO, **changes})
    return lambda callbacks: GRPODTrainer(
        load_model(base), config, processor(), SAMPLES, SAMPLES[:2], callbacks, reward_funcs=rewards
    )


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def mean_loss(outputs: Outputs) -> float:
    """Of the whole training, as the log's closing line says."""
    return json.loads(outputs.log.read_text().splitlines()[-1])["train_loss"]


@pytest.mark.parametrize("kind", ["sft", "grpo_d"])
@pytest.mark.parametrize(("accumulation", "logging_steps"), [(1, 1), (2, 3)])
def test_a_stopped_run_ends_with_the_same_bits(
    kind: str, accumulation: int, logging_steps: int, base: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {
        "gradient_accumulation_steps": accumulation,
        "logging_steps": logging_steps,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "eval_max_new_tokens": 4,
    }
    whole, parts = Path("ck-whole"), Path("ck-parts")
    run(trainer_of(kind, base, whole, **options), Home(whole), Outputs("whole"), Reporter())
    with pytest.raises(KeyboardInterrupt):
        run(trainer_of(kind, base, parts, **options), Home(parts), Outputs("parts"), Reporter(stop_at=2))
    assert not Outputs("parts").model.exists()
    assert list(parts.glob("checkpoint-*"))
    run(trainer_of(kind, base, parts, **options), Home(parts), Outputs("parts"), Reporter())

    assert weights(Outputs("parts").model) == weights(Outputs("whole").model)
    assert Outputs("parts").curves.read_text() == Outputs("whole").curves.read_text()
    assert mean_loss(Outputs("parts")) == mean_loss(Outputs("whole"))
    assert not whole.exists()
    assert not parts.exists()
    assert weights(Outputs("whole").model) != weights(base)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(base: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("ck")

    class Killed(BaseException):
        pass

    trainer = trainer_of("grpo_d", base, folder)([])
    save = trainer._save_rng_state

    def dies_at_two(where: str) -> None:
        if trainer.state.global_step == 2:
            raise Killed
        save(where)

    trainer._save_rng_state = dies_at_two
    with pytest.raises(Killed):
        trainer.train()
    assert [p.name for p in folder.glob("checkpoint-*")] == ["checkpoint-1"]
    run(trainer_of("grpo_d", base, folder), Home(folder), Outputs("after"), Reporter())
    run(trainer_of("grpo_d", base, Path("other")), Home(Path("other")), Outputs("whole"), Reporter())
    assert weights(Outputs("after").model) == weights(Outputs("whole").model)


def test_beta_follows_eq_3_and_the_log_has_trls_names(base: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = trainer_of("grpo_d", base, Path("ck"), max_steps=10, save_strategy="no", beta_min=0.04, beta_max=0.1)([])
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "beta" in entry]
    expected = [KLSchedule("dynamic", 0.04, 0.1)(s, 10) for s in range(1, 11)]
    assert [entry["beta"] for entry in steps] == pytest.approx(expected)
    assert {
        "reward", "reward_std", "rewards/likes_early_tokens/mean", "frac_reward_zero_std", "kl", "entropy",
        "completions/mean_length", "completions/clipped_ratio", "clip_ratio/region_mean", "num_tokens", "step_time",
    } <= set(steps[0])  # fmt: skip
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert steps[-1]["kl"] > 1e-6


def mentions_one(completions: list[str], solutions: list[str], **columns: Any) -> list[float]:
    """A bandit: completions are one token long, and the token `1` alone pays."""
    return [float("1" in text) for text in completions]


def test_a_bandit_is_solved_unless_a_large_beta_holds_back(base: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A base that already says `1` now and then: a bandit needs to see the arm to learn it.
    teach = [{**sample, "targets": ["1" if i % 3 == 0 else "2"]} for i, sample in enumerate(SAMPLES)]
    sft = SFTConfig(output_dir="sft", **{**COMMON, "max_steps": 40, "learning_rate": 3e-3, "save_strategy": "no"})
    teacher = SFTTrainer(load_model(base), sft, processor(), teach)
    teacher.train()
    teacher.save_model(str(tmp_path / "taught"))

    ends = {}
    for beta in (0.0, 5.0):
        options = {"max_steps": 40, "save_strategy": "no", "max_completion_length": 1, "num_generations": 8,
                   "kl_schedule": "constant", "beta_min": beta, "beta_max": beta,
                   "reward_funcs": ["tests.training.test_training:mentions_one"]}  # fmt: skip
        trainer = trainer_of("grpo_d", tmp_path / "taught", Path(f"ck{beta}"), **options)([])
        trainer.train()
        logs = [entry for entry in trainer.state.log_history if "reward" in entry]
        ends[beta] = sum(entry["reward"] for entry in logs[-5:]) / 5
        start = logs[0]["reward"]
    assert start < 0.7
    assert ends[0.0] > 0.95
    assert ends[5.0] < 0.9


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "reward raises: KeyError: 'column'"),
        ("too_few", "reward too_few: it returned 1 for 8 completions"),
        ("not_a_number", "reward not_a_number: nan for sample"),
    ],
)
def test_a_broken_reward_is_named(name: str, message: str, base: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = trainer_of("grpo_d", base, Path("ck"), reward_funcs=[f"tests.training.test_training:{name}"])([])
    with pytest.raises(UserError, match=message):
        trainer.train()


def test_an_unknown_reward_is_named(base: Path) -> None:
    with pytest.raises(UserError, match=r"'nowhere:f' cannot be loaded"):
        trainer_of("grpo_d", base, Path("ck"), reward_funcs=["nowhere:f"])([])


def test_sft_learns_its_target(base: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = trainer_of(
        "sft", base, Path("ck"), max_steps=60, save_strategy="no", learning_rate=3e-3, per_device_train_batch_size=6
    )([])
    trainer.train()
    assert trainer.evaluate()["eval_format"] == 0  # the paper's target has no <think>
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 3


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("megabytes", [1, 2, 3])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(
    megabytes: int, base: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not allow mounts")
    try:
        with pytest.raises(UserError, match="free some space"):
            run(trainer_of("sft", base, disk / "train-1"), Home(disk / "train-1"), Outputs("model"), Reporter())
        assert not Outputs("model").model.exists()
        assert not [
            p
            for p in disk.rglob("checkpoint-*")
            if not (p / "trainer_state.json").exists() and "unfinished" not in p.parts
        ]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
