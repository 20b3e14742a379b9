"""The base model step: model folders as the hub has them are taken, and what does not fit is one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from othink_mr1.errors import UserError
from othink_mr1.models.fitting import check_fit, run_a_picture
from othink_mr1.models.folder import check_model_folder
from othink_mr1.models.loading import load_model, load_processor, save_model
from steps import base_model
from tests.grpo.families import FAMILIES, model, pictures, processor

Folder = Callable[[str], Path]
INDEX = "model.safetensors.index.json"


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes one away."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def as_on_the_hub(folder: Path, family: str) -> None:
    """Rewrite a saved model in the files that the family's first models on the hub have.

    Shards with an index; Qwen2-VL and Qwen2.5-VL with the language model's settings at the top of config.json, limits
    of pictures as min_pixels and max_pixels, and the chat template in a JSON file.
    """
    config = json.loads((folder / "config.json").read_text())
    if family == "qwen3_vl":
        return
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    config |= text | {"model_type": family, "rope_theta": rope["rope_theta"]}
    config["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    config["vision_config"]["in_chans"] = config["vision_config"].pop("in_channels")
    (folder / "config.json").write_text(json.dumps(config))
    size = json.loads((folder / "preprocessor_config.json").read_text())["size"]
    limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"], "size": None}
    edit(folder / "preprocessor_config.json", image_processor_type="Qwen2VLImageProcessor", **limits)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    if family == "qwen2_vl":
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    else:
        edit(folder / "tokenizer_config.json", chat_template=template)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder of each family."""
    folders = {}
    for family in FAMILIES:
        folder, tools = tmp_path_factory.mktemp("hub") / family, processor()
        net = model(family, tools)
        save_model(net, tools, folder)
        net.save_pretrained(folder, max_shard_size="100KB")
        (folder / "model.safetensors").unlink()
        as_on_the_hub(folder, family)
        folders[family] = folder
    return folders


@pytest.fixture
def folder(made: dict[str, Path], tmp_path: Path) -> Folder:
    return lambda family: Path(shutil.copytree(made[family], tmp_path / family))


def check(folder: Path) -> None:
    """What the step asks of a folder, in its order."""
    config = check_model_folder(folder)
    tools = load_processor(folder)
    check_fit(folder, config, tools)
    run_a_picture(folder, load_model(folder, device="cpu"), tools)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_the_hub_answers_as_the_model_that_it_was_made_from(folder: Folder, family: str) -> None:
    path = folder(family)
    assert len(list(path.glob("model-*.safetensors"))) > 2
    assert ("text_config" in json.loads((path / "config.json").read_text())) == (family == "qwen3_vl")
    check(path)
    tools, mine = processor(), load_processor(path)
    prompts, found = (p.encode(["Count."] * 2, pictures(2, 48, 32)) for p in (tools, mine))
    assert torch.equal(prompts.input_ids, found.input_ids)
    with torch.no_grad():
        before, after = (net(**vars(prompts)).logits for net in (model(family, tools), load_model(path, device="cpu")))
    torch.testing.assert_close(before, after, rtol=0, atol=0)


def to_bin(folder: Path) -> None:
    for file in [*folder.glob("*.safetensors"), folder / INDEX]:
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")


def cut(folder: Path) -> None:
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-10])


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Write the weights anew as one file."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in folder.glob("model-*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (folder / INDEX).unlink()
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def spoil(name_part: str, value: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Path], None]:
    """Replace the first tensor with such a name, or take it away."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in sorted(tensors) if name_part in name)
        changed = value(tensors.pop(name))
        if changed is not None:
            tensors[name] = changed

    return lambda folder: change_weights(folder, change)


def rename_token(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text().replace("<|image_pad|>", "<|picture|>")
        (folder / name).write_text(text)


def write_template(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.json").write_text(json.dumps({"chat_template": text}))


def text_only(folder: Path) -> None:
    edit(folder / "config.json", model_type="qwen2", architectures=["Qwen2ForCausalLM"], vision_config=None)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (to_bin, r"no \*.safetensors weights; pytorch_model.bin holds pickled weights, which are not read"),
        (
            lambda f: sorted(f.glob("model-*.safetensors"))[1].unlink(),
            r"model-00002.* is missing, which model.safetens",
        ),
        (lambda f: (f / INDEX).unlink(), f"several files, and {INDEX}"),
        (
            lambda f: edit(f / INDEX, weight_map={"lm_head.weight": "../x"}),
            "'../x' is no name of a file in this folder",
        ),
        (cut, r"model-00001.*bytes, and its head speaks of .*cut short"),
        (lambda f: sorted(f.glob("model-*"))[0].write_bytes(b"\xff" * 40), "not a safetensors file, or cut short"),
        (text_only, "model_type is 'qwen2', a model without a vision tower; it should be one of qwen2_vl, qwen2_5_vl"),
        (lambda f: edit(f / "config.json", vision_config=None), "no vision_config"),
        (lambda f: edit(f / "config.json", architectures=["Qwen2VLModel"]), "it should be Qwen2VLForConditionalGener"),
        (lambda f: edit(f / "config.json", quantization_config={"bits": 4}), "quantised"),
        (lambda f: edit(f / "config.json", vocab_size=300), r"embed_tokens.weight is \[\d+, 64\].* says \[300, 64\]"),
        (lambda f: edit(f / "config.json", image_token_id=3), r"image_token_id is 3 .* <\|image_pad\|> is \d"),
        (lambda f: edit(f / "preprocessor_config.json", patch_size=14), "patch_size 14, and config.json says 8"),
        (lambda f: edit(f / "tokenizer_config.json", pad_token=None), "the tokenizer has no pad_token"),
        (rename_token, r"the tokenizer has no <\|image_pad\|> token"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer or image processor cannot be read"),
        (lambda f: (f / "chat_template.json").unlink(), "no chat template"),
        (write_template("{% for m in messages %}{{ m['content'][1]['text'] }}{% endfor %}"), r"puts 0 <\|image_pad\|>"),
        (write_template("{% for m in messages %}<|image_pad|>{% endfor %}"), "leaves out the question's text"),
        (write_template("{{ 1 / 0 }}"), "the chat template cannot be used"),
        (spoil("visual.blocks.0.attn", lambda t: None), "the weights lack .*visual.blocks.0.attn"),
        (spoil("layers.0.mlp", lambda t: t.to(torch.int8)), "layers.0.mlp.* is I8, which cannot be trained"),
        (spoil("layers.0.mlp", lambda t: t * torch.nan), "answers a picture with numbers that are none"),
        (spoil("layers.0.mlp", lambda t: t[:5].clone()), "cannot be loaded"),
    ],
)
def test_what_does_not_fit_is_one_line(folder: Folder, spoil: Callable[[Path], None], message: str) -> None:
    path = folder("qwen2_vl")
    spoil(path)
    with pytest.raises(UserError, match=message) as caught:
        check(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_with_too_small_a_vocabulary_is_refused(folder: Folder) -> None:
    path = folder("qwen2_vl")
    edit(path / "config.json", vocab_size=200)
    change_weights(
        path, lambda tensors: tensors.update({k: v[:200].clone() for k, v in tensors.items() if "embed_t" in k})
    )
    with pytest.raises(UserError, match=r"tokenizer has \d+ tokens and the model room for 200 \(vocab_size\)"):
        check(path)


def run_step(folder: Path, **base: Any) -> None:
    """The step as it is called, in `folder`."""
    params = {"base": base, "seed": 0, "threads": 1, "local": {"paths": {"base": str(base.get("path"))}}}
    (folder / ".othink").mkdir(exist_ok=True)
    (folder / ".othink" / "params.yaml").write_text(yaml.safe_dump(params))
    base_model.main([])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_step_takes_a_folder_whole_and_without_what_is_not_read(
    folder: Folder, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(family)
    (path / "pytorch_model.bin").write_bytes(b"never read")
    (path / "modeling.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OTHINK_OWNER", raising=False)
    run_step(tmp_path, source="path", path=str(path), max_pixels=256)
    base = tmp_path / "models" / "base"
    check(base)
    assert not {"pytorch_model.bin", "modeling.py"} & {file.name for file in base.iterdir()}
    assert load_processor(base).encode(["Count."], pictures(1, 400, 400)).image_grid_thw.prod() <= 256 / 8**2
    assert (tmp_path / "training" / "base" / "curves.csv").read_text() == "step\n"


STEP = """
from steps import base_model, harness
harness.run_step(base_model.main)
"""
NAME = "Qwen/Qwen2-VL-2B-Instruct"


def without_network(folder: Path, revision: str | None) -> subprocess.CompletedProcess[str]:
    """The step as a process, for a model of a hub that does not answer."""
    params = {"base": {"source": "hub", "name": NAME, "revision": revision}, "seed": 0, "threads": 1}
    (folder / ".othink").mkdir()
    (folder / ".othink" / "params.yaml").write_text(yaml.safe_dump(params))
    environment = {
        **{key: value for key, value in os.environ.items() if key != "OTHINK_OWNER"},
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nothing listens there
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    step = [sys.executable, "-c", STEP]
    return subprocess.run(step, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_hub_model_without_a_network_is_one_line(tmp_path: Path) -> None:
    done = without_network(tmp_path, "895c3a4")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"base.name: '{NAME}' at 895c3a4 cannot be fetched" in last
    assert "base.source=path" in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_a_hub_model_that_was_fetched_before_needs_no_network(folder: Folder, tmp_path: Path) -> None:
    commit = "895c3a49bc3fa70a340399125c650a463535e71c"
    cached = tmp_path / "cache" / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(folder("qwen2_vl"), cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    done = without_network(tmp_path, None)
    assert done.returncode == 0, done.stderr
    assert f"base model: {NAME} at commit {commit}; base.revision={commit} pins it" in done.stdout
    check(tmp_path / "models" / "base")
