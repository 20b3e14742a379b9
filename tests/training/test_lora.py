"""LoRA: only the adapter is trained, the model without it is the reference, and it is saved by itself and merged."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModel, PeftModel
from safetensors.torch import load_file

from othink_mr1.digests import folder_digest
from othink_mr1.errors import UserError
from othink_mr1.grpo.config import GRPODConfig
from othink_mr1.models.folder import is_adapter
from othink_mr1.models.hub import record_origin
from othink_mr1.models.loading import load_model, load_processor, save_merged
from othink_mr1.models.lora import bare, base_of
from othink_mr1.sft import SFTConfig, SFTTrainer
from othink_mr1.training.fingerprint import Home
from othink_mr1.training.run import Outputs, run
from tests.grpo.families import processor
from tests.training.test_training import COMMON, SAMPLES, Reporter, base, trainer_of, weights

__all__ = ["base"]  # the fixture
ROOT = Path(__file__).parents[2]
COMMIT = "895c3a49bc3fa70a340399125c650a463535e71c"
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


def trained_adapter(base: Path, name: str = "tuned", **changes: Any) -> Path:
    """The output of a training that keeps the adapter alone, beside its base."""
    options = {**LORA, "lora_save": "adapter", **changes}
    run(trainer_of("sft", base, Path("ck"), **options), Home(Path("ck")), Outputs(name), Reporter())
    return Outputs(name).model


def test_the_output_may_be_the_adapter_alone_and_is_the_same_model(base: Path) -> None:
    run(trainer_of("sft", base, Path("ck"), **LORA), Home(Path("ck")), Outputs("whole"), Reporter())
    whole, adapter = Outputs("whole").model, trained_adapter(base)
    assert is_adapter(adapter)
    assert not list(adapter.glob("model*"))
    assert (adapter / "adapter_model.safetensors").stat().st_size < (whole / "model.safetensors").stat().st_size
    prompts = trainer_of("sft", base, Path("ck"))([]).data_collator([{**SAMPLES[0]}])["prompts"]
    inputs = {name: getattr(prompts, name) for name in prompts.__dataclass_fields__}
    for dtype in ("float32", "bfloat16"):
        one, other = (load_model(folder, dtype, "cpu") for folder in (whole, adapter))
        assert one.dtype == other.dtype == getattr(torch, dtype)
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
        with torch.no_grad():
            assert torch.equal(one(**inputs).logits, other(**inputs).logits)
    assert len(load_processor(adapter).tokenizer) == len(load_processor(whole).tokenizer)


def test_an_adapter_is_merged_on_demand(base: Path) -> None:
    run(trainer_of("sft", base, Path("ck"), **LORA), Home(Path("ck")), Outputs("whole"), Reporter())
    adapter = trained_adapter(base)
    save_merged(adapter, Path("merged"))
    assert weights(Path("merged")) == weights(Outputs("whole").model)
    assert len(load_processor("merged").tokenizer) == len(processor().tokenizer)
    with pytest.raises(UserError, match="merged is there already; give a folder that is not"):
        save_merged(adapter, Path("merged"))
    with pytest.raises(UserError, match="merged: no LoRA adapter"):
        save_merged(Path("merged"), Path("twice"))
    assert not list(Path().glob(".*"))


def test_the_same_training_leaves_the_same_files(base: Path) -> None:
    """Sets of names have an order of chance, another one in each process."""
    first = trained_adapter(base, max_steps=1)
    code = (
        "from pathlib import Path\n"
        "from tests.training.test_lora import trained_adapter\n"
        f"trained_adapter(Path({str(base)!r}), 'again', max_steps=1)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert folder_digest(Outputs("again").model) == folder_digest(first)


def test_peft_finds_class_and_base_by_itself(base: Path) -> None:
    adapter = trained_adapter(base)
    theirs = AutoPeftModel.from_pretrained(str(adapter)).merge_and_unload()
    mine = load_model(adapter, device="cpu")
    assert type(theirs) is type(mine)
    assert all(torch.equal(value, mine.state_dict()[name]) for name, value in theirs.state_dict().items())


def test_an_adapter_of_another_base_is_refused(base: Path) -> None:
    adapter = trained_adapter(base, max_steps=1)
    other = Path("other")
    shutil.copytree(base, other)
    load_model(adapter, base=other)
    net = load_model(other)
    with torch.no_grad():
        net.lm_head.weight[0, 0] += 1
    net.save_pretrained(other)
    with pytest.raises(UserError, match=r"tuned: it was trained on another base than other \(the digest"):
        load_model(adapter, base=other)
    base.rename("elsewhere")
    with pytest.raises(UserError, match=r"tuned: an adapter of .*base, which is not there"):
        load_model(adapter)
    load_model(adapter, base="elsewhere")
    with pytest.raises(UserError, match=r"nowhere: no model's folder \(config.json"):
        load_model(adapter, base="nowhere")
    (adapter / "base.json").unlink()
    with pytest.raises(UserError, match=r"tuned: no base\.json, which says of which model it is an adapter"):
        load_model(adapter)


def test_an_adapter_goes_where_its_base_lies_beside_it(base: Path, tmp_path: Path) -> None:
    """As in the registry, and in a project's folder that was copied."""
    adapter = trained_adapter(base, max_steps=1)
    away = tmp_path / "away" / "models"
    shutil.copytree(adapter, away / "tuned")
    shutil.copytree(base, tmp_path / "away" / "base")
    shutil.rmtree(base)
    assert load_model(away / "tuned").num_parameters() > 0


def test_a_base_of_the_hub_is_found_by_name_and_commit(base: Path, tmp_path: Path) -> None:
    record_origin(base, "Qwen/Qwen2-VL-2B-Instruct", COMMIT)
    adapter = trained_adapter(base, max_steps=1)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("Qwen/Qwen2-VL-2B-Instruct", COMMIT)
    base.rename(cached(tmp_path / "cache"))
    away = shutil.copytree(adapter, tmp_path / "away")
    code = (
        "from othink_mr1.errors import UserError\nfrom othink_mr1.models.loading import load_model\n"
        f"try: print(load_model({str(away)!r}).num_parameters())\nexcept UserError as error: print(error)\n"
    )

    def loaded(cache: str) -> str:
        offline = {"HF_HUB_CACHE": str(tmp_path / cache), "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, env={**os.environ, **offline}, capture_output=True, text=True, check=True
        ).stdout.splitlines()[-1]

    assert int(loaded("cache")) > 0
    told = loaded("empty")
    assert told.startswith(f"{away}: its base: 'Qwen/Qwen2-VL-2B-Instruct' at {COMMIT} cannot be fetched (")


def cached(cache: Path) -> Path:
    """Where huggingface_hub keeps that model."""
    folder = cache / "models--Qwen--Qwen2-VL-2B-Instruct" / "snapshots"
    folder.mkdir(parents=True)
    return folder / COMMIT


def test_what_cannot_be_is_refused(base: Path) -> None:
    with pytest.raises(ValueError, match=r"lora_dropout is 0\.1; it should be 0"):
        GRPODConfig(output_dir="ck", **{**COMMON, "lora_r": 4, "lora_dropout": 0.1})
    with pytest.raises(ValueError, match="lora_save is 'both'; it should be one of merged, adapter"):
        GRPODConfig(output_dir="ck", **{**COMMON, "lora_save": "both"})
    with pytest.raises(UserError, match=r"lora_target_modules is \['nothing'\]: Target modules"):
        trainer_of("sft", base, Path("ck"), lora_r=4, lora_target_modules=["nothing"])([])


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["q_proj", "lm_head"], "the head's weight is the embeddings' too"),
        (["q_proj", "embed_tokens"], "lora_embedding_A.* is not of a linear layer"),
    ],
)
def test_layers_that_an_adapter_cannot_have_are_named_before_a_step(base: Path, targets: list[str], told: str) -> None:
    with pytest.raises(UserError, match=rf"lora_target_modules is \['q_proj'.*{told}"):
        trainer_of("sft", base, Path("ck"), **LORA, lora_target_modules=targets)([])


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"path": 3, "sha256": "x"}', '{"name": "a", "path": "b", "sha256": "c"}']
)
def test_a_record_of_the_base_that_says_too_little_is_told(content: str) -> None:
    Path("tuned").mkdir()
    Path("tuned/base.json").write_text(content)
    with pytest.raises(UserError, match=r"^tuned/base\.json: path, sha256.* are needed, as text"):
        base_of(Path("tuned"))


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
