"""A stopped run ends with the same bits: each method, schedule and way of training, sparsely combined."""

from pathlib import Path
from typing import Any

import pytest

from othink_mr1.training.fingerprint import Home
from othink_mr1.training.run import Outputs, run
from tests.training.test_training import Reporter, base, mean_loss, trainer_of, weights

__all__ = ["base"]  # the fixture
GRPO: dict[str, Any] = {"kl_schedule": "constant", "beta_min": 0.04, "beta_max": 0.04}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("sft", {"lora_r": 4}),
        ("sft", {"freeze_vision": True, "gradient_accumulation_steps": 2, "logging_steps": 3}),
        ("grpo_d", {**GRPO}),
        ("grpo_d", {**GRPO, "lora_r": 4, "gradient_accumulation_steps": 2}),
        ("grpo_d", {"kl_schedule": "dynamic", "num_iterations": 2, "lora_r": 4, "freeze_vision": True}),
        ("grpo_d", {"kl_schedule": "linear", "num_iterations": 3, "lora_r": 4}),
        ("grpo_d", {"kl_schedule": "cosine", "num_iterations": 2, "gradient_accumulation_steps": 2}),
        ("grpo_d", {"kl_schedule": "adaptive", "kl_target": 0.001, "num_iterations": 2, "logging_steps": 2}),
        ("grpo_d", {"kl_schedule": "adaptive", "kl_target": 0.001, "lora_r": 4, "loss_type": "dapo"}),
    ],
    ids=str,
)
def test_a_stopped_run_ends_with_the_same_bits(
    kind: str, settings: dict[str, Any], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole, parts = Path("ck-whole"), Path("ck-parts")
    run(trainer_of(kind, base, whole, **settings), Home(whole), Outputs("whole"), Reporter())
    # With two updates a rollout, both stops fall between the updates of one.
    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(trainer_of(kind, base, parts, **settings), Home(parts), Outputs("parts"), Reporter(stop_at=stop))
        kept = parts / f"checkpoint-{stop}"
        assert (kept / "experience-0.safetensors").exists() is bool(stop % settings.get("num_iterations", 1))
    run(trainer_of(kind, base, parts, **settings), Home(parts), Outputs("parts"), Reporter())
    assert weights(Outputs("parts").model) == weights(Outputs("whole").model)
    assert Outputs("parts").curves.read_text() == Outputs("whole").curves.read_text()
    assert mean_loss(Outputs("parts")) == mean_loss(Outputs("whole"))
    assert weights(Outputs("whole").model) != weights(base)
