"""A DeepSpeed configuration says what ZeRO does; what params.yaml says stays there."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from othink_mr1 import config
from othink_mr1.errors import UserError
from othink_mr1.training import deepspeed_config

REPO = Path(__file__).parents[2]
ZERO_1 = {"zero_optimization": {"stage": 1, "reduce_bucket_size": 1000}}


def test_what_params_yaml_says_is_auto() -> None:
    found = deepspeed_config.complete({**ZERO_1, "bf16": {"check_grad_overflow": True}}, "ds.json")
    assert found == {
        **ZERO_1,
        "bf16": {"check_grad_overflow": True, "enabled": "auto"},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }
    assert deepspeed_config.complete(found, "ds.json") == found


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage is 3; it should be 1 or 2: .*strategy fsdp"),
        ({"zero_optimization": True}, "zero_optimization.stage is null; it should be 1 or 2"),
        ({"optimizer": {"type": "AdamW"}}, r"optimizer is .*not there: .*learning_rate"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler is .*not there: .*lr_scheduler_type"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is true.*mixed_precision"),
        ({"bf16": {"enabled": True}}, r'bf16.enabled is true; it should be not there or "auto": .*mixed_precision'),
        ({"bf16": {"check_grad_overflow": False}}, "bf16.check_grad_overflow is false; .*has to be dropped"),
        (
            {"zero_optimization": {"stage": 2, "compute_grad_norm": False}},
            "zero_optimization.compute_grad_norm is false; .* dropped",
        ),
        ({"torch_autocast": {"enabled": True}}, "torch_autocast.enabled is true; .*mixed_precision"),
        ({"gradient_clipping": 0.5}, r'gradient_clipping is 0.5; it should be not there or "auto": .*max_grad_norm'),
        ({"train_micro_batch_size_per_gpu": 4}, "train_micro_batch_size_per_gpu is 4; .*per_device_train_batch_size"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=rf"^ds\.json: {told}"):
        deepspeed_config.complete({**ZERO_1, **wrong}, "ds.json")


def test_the_parameters_in_force_hold_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((REPO / "params.yaml").read_text())

    def launch(*overrides: str) -> dict[str, Any]:
        chosen = [f"training.launch.{override}" for override in overrides]
        return yaml.safe_load(yaml.safe_dump(config.resolve("smoke", chosen, tmp_path)))["training"]["launch"]

    assert (launch()["strategy"], launch()["deepspeed"]) == ("ddp", None)
    assert launch("strategy=deepspeed")["deepspeed"] is None
    file = tmp_path / "ds.json"
    with pytest.raises(UserError, match=r"training\.launch\.deepspeed: .*ds\.json: .*No such file"):
        launch("strategy=deepspeed", "deepspeed=ds.json")
    for broken, told in {"{": "can be read there", "[1]": "should hold a DeepSpeed configuration, not list"}.items():
        file.write_text(broken)
        with pytest.raises(UserError, match=told):
            launch("strategy=deepspeed", "deepspeed=ds.json")
    file.write_text(json.dumps(ZERO_1))
    assert (
        launch("strategy=deepspeed", "deepspeed=ds.json")["deepspeed"]["zero_optimization"]
        == ZERO_1["zero_optimization"]
    )
    with pytest.raises(UserError, match=r"training\.launch.*deepspeed is 'ds\.json', and strategy 'ddp'"):
        launch("deepspeed=ds.json")
