"""LoRA: only the adapter is trained, the model without it is the reference, and it is saved by itself and merged."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from othink_mr1.errors import UserError
from othink_mr1.grpo.config import GRPODConfig
from othink_mr1.models.loading import load_model, load_processor
from othink_mr1.models.lora import bare
from othink_mr1.sft import SFTConfig, SFTTrainer
from othink_mr1.training.fingerprint import Home
from othink_mr1.training.run import Outputs, run
from tests.grpo.families import processor
from tests.training.test_training import COMMON, SAMPLES, Reporter, base, trainer_of

__all__ = ["base"]  # the fixture
LORA: dict[str, Any] = {"lora_r": 4, "lora_alpha": 16.0, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(trainer: Any) -> set[str]:
    return {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("freeze_vision", [False, True])
def test_only_the_adapter_is_trained(base: Path, freeze_vision: bool) -> None:
    trainer = trainer_of("grpo_d", base, Path("ck"), **LORA, freeze_vision=freeze_vision, save_strategy="no")([])
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    names = trained(trainer)
    assert names
    assert all("lora_" in name for name in names)
    assert any("visual" in name for name in names) is not freeze_vision
    assert trainer.vision_is_frozen is freeze_vision
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == names


def test_the_reference_is_the_model_without_its_adapter(base: Path) -> None:
    trainer = trainer_of("grpo_d", base, Path("ck"), **LORA, save_strategy="no")([])
    assert trainer.reference is None
    trainer.train()
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] == 0
    assert kl[-1] > 1e-6
    copied = trainer_of("grpo_d", base, Path("ck"), save_strategy="no")([]).reference
    prompts = trainer.data_collator([trainer.train_dataset[0]])["prompts"]
    inputs = {name: getattr(prompts, name) for name in prompts.__dataclass_fields__}
    with torch.no_grad(), trainer._as_reference(trainer.model) as reference:
        assert torch.equal(reference(**inputs).logits, copied(**inputs).logits)
    assert not torch.equal(trainer.model(**inputs).logits, copied(**inputs).logits)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_the_output_is_a_whole_model_and_the_adapter_by_itself(base: Path, targets: Any) -> None:
    options = {**LORA, "lora_target_modules": targets, "eval_strategy": "steps", "eval_steps": 4}
    made = []

    def make(callbacks: list[Any]) -> Any:
        made.append(trainer_of("grpo_d", base, Path("ck"), **options)(callbacks))
        return made[0]

    run(make, Home(Path("ck")), Outputs("tuned"), Reporter())
    whole, adapter = Outputs("tuned").model, Outputs("tuned").model / "adapter"
    assert {"adapter_config.json", "adapter_model.safetensors", "base.json"} <= {p.name for p in adapter.iterdir()}
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 16.0)
    # Whoever knows of no adapter finds a model; whoever takes the adapter gets the same one, by us or by peft.
    merged, from_adapter = load_model(whole, device="cpu"), load_model(adapter, device="cpu")
    theirs = PeftModel.from_pretrained(load_model(base, device="cpu"), str(adapter)).merge_and_unload()
    for name, value in merged.state_dict().items():
        assert torch.equal(value, from_adapter.state_dict()[name]), name
        assert torch.equal(value, theirs.state_dict()[name]), name
    # And it is the model that was trained.
    batch = made[0].data_collator([made[0].train_dataset[0]])["prompts"]
    inputs = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    with torch.no_grad():
        trained = made[0].model(**inputs).logits
        assert torch.allclose(trained, merged(**inputs).logits, atol=1e-4)
        assert not torch.allclose(trained, load_model(base, device="cpu")(**inputs).logits, atol=1e-2)
    assert len(load_processor(whole).tokenizer) == len(load_processor(adapter).tokenizer)


def test_a_checkpoint_holds_the_adapter_alone(base: Path) -> None:
    trainer_of("sft", base, Path("ck"), **LORA, max_steps=1)([]).train()
    checkpoint = Path("ck/checkpoint-1")
    assert not list(checkpoint.glob("model*"))
    assert all("lora_" in name for name in load_file(checkpoint / "adapter_model.safetensors"))


def test_an_adapter_of_another_base_is_refused(base: Path) -> None:
    run(trainer_of("sft", base, Path("ck"), **LORA, max_steps=1), Home(Path("ck")), Outputs("tuned"), Reporter())
    adapter = Outputs("tuned").model / "adapter"
    (base / "generation_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapter: an adapter of another .*base than the one that lies there now"):
        load_model(adapter)
    (adapter / "base.json").write_text(json.dumps({"path": "nowhere", "sha256": ""}))
    with pytest.raises(UserError, match="adapter: an adapter of nowhere, which is not there"):
        load_model(adapter)


def test_what_cannot_be_is_refused(base: Path) -> None:
    with pytest.raises(ValueError, match=r"lora_dropout is 0\.1; it should be 0"):
        GRPODConfig(output_dir="ck", **{**COMMON, "lora_r": 4, "lora_dropout": 0.1})
    with pytest.raises(UserError, match=r"lora_target_modules is \['nothing'\]: Target modules"):
        trainer_of("sft", base, Path("ck"), lora_r=4, lora_target_modules=["nothing"])([])


def test_a_bandit_is_solved_by_an_adapter(base: Path) -> None:
    teach = [{**sample, "targets": ["1" if i % 3 == 0 else "2"]} for i, sample in enumerate(SAMPLES)]
    sft = SFTConfig(output_dir="sft", **{**COMMON, "max_steps": 40, "learning_rate": 3e-3, "save_strategy": "no"})
    net = load_model(base)
    with torch.no_grad():  # an adapter leaves the head as it is: it has to be able to prefer a token clearly
        net.lm_head.weight.mul_(5)
    teacher = SFTTrainer(net, sft, processor(), teach)
    teacher.train()
    teacher.save_model("taught")
    options = {"max_steps": 60, "save_strategy": "no", "max_completion_length": 1, "num_generations": 8,
               "learning_rate": 3e-3,
               "kl_schedule": "constant", "beta_min": 0.0, "beta_max": 0.01, "freeze_vision": True,
               "reward_funcs": ["tests.training.test_training:mentions_one"]}  # fmt: skip
    trainer = trainer_of("grpo_d", Path("taught"), Path("ck"), **{**LORA, **options})([])
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert rewards[0] < 0.7
    assert sum(rewards[-5:]) / 5 > 0.95
    assert isinstance(trainer.model, PeftModel)
    assert bare(trainer.model) is trainer.bare()
