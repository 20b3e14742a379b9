"""A LoRA adapter as a registered model: its version answers by itself, and says what it is."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flows.cli import app
from othink_mr1 import registry
from othink_mr1.models.hub import record_origin
from othink_mr1.models.loading import load_model, load_processor
from othink_mr1.models.lora import record_base, save_adapter, with_adapter
from othink_mr1.serving.answering import Answerer, open_picture
from othink_mr1.tracking import connection
from tests.registry.chain import TASK, Chain, picture_text

HUB = "Qwen/Qwen2-VL-2B-Instruct"
COMMIT = "895c3a49bc3fa70a340399125c650a463535e71c"


def leave_adapter(chain: Chain, hub: bool = False) -> Path:
    """The output of a training with LoRA that keeps the adapter alone, beside its base."""
    base, folder = chain.root / "models" / "base", chain.root / "models" / f"grpo_d-{TASK}"
    shutil.copytree(chain.weights, base)
    if hub:
        record_origin(base, HUB, COMMIT)
    model = with_adapter(load_model(base, device="cpu"), 4, 16.0, ["q_proj", "v_proj"], False, 0)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    save_adapter(model, folder)
    load_processor(base).save_pretrained(folder)
    record_base(folder, base)
    return folder


def artifacts(chain: Chain) -> list[Path]:
    stored = chain.root / ".othink/mlflow/artifacts"
    return [path.relative_to(stored) for path in stored.rglob("*.safetensors")]


@pytest.mark.slow
def test_a_registered_adapter_answers_outside_the_project_as_the_merged_model(chain: Chain, tmp_path: Path) -> None:
    folder = leave_adapter(chain)
    (tmp_path / "picture.png").write_bytes(base64.b64decode(picture_text()))
    mine = Answerer(folder, TASK, 8).ask([open_picture(tmp_path / "picture.png")], ["How many?"])[0].completion
    plain = Answerer(chain.weights, TASK, 8).ask([open_picture(tmp_path / "picture.png")], ["How many?"])[0].completion
    assert mine != plain
    chain.candidate("a", 40)
    shutil.rmtree(chain.root / "models")
    code = (
        "import json, sys\nimport mlflow, pandas as pd\nmlflow.set_tracking_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model('models:/othink-mr1-counting@candidate')\n"
        "frame = pd.DataFrame({'image': [sys.argv[2]], 'question': ['How many?']})\n"
        "print(json.dumps(model.predict(frame).to_dict('list')))\n"
    )
    command = [sys.executable, "-c", code, connection.store(chain.root).uri, picture_text()]
    environment = {"PATH": "/usr/bin:/bin", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["completion"] == [mine]


def test_a_version_of_an_adapter_says_what_it_is(chain: Chain) -> None:
    leave_adapter(chain)
    entry = chain.candidate("a", 40)
    assert {name: text for name, text in entry.tags.items() if name.startswith("lora.")} == {
        "lora.r": "4",
        "lora.alpha": "16",
        "lora.target_modules": "q_proj,v_proj",
        "lora.vision_tower": "frozen",
        "lora.saved": "adapter",
    }
    card = registry.evidence(chain.root, entry, "model_card.md").read_text()
    assert "Base: a tiny model made for the demo. Only a LoRA adapter was trained." in card
    assert "- LoRA: rank 4, alpha 16, on q_proj, v_proj; vision tower frozen; the version holds the adapter" in card
    [pinned] = (chain.root / ".othink/mlflow/artifacts").rglob("requirements.txt")
    assert "\npeft==" in pinned.read_text()
    assert sorted(path.name for path in artifacts(chain)) == ["adapter_model.safetensors", "model.safetensors"]
    assert chain.promote().outcome == "promoted"


def test_a_base_of_the_hub_stays_there(chain: Chain) -> None:
    leave_adapter(chain, hub=True)
    entry = chain.candidate("a", 40)
    assert [path.name for path in artifacts(chain)] == ["adapter_model.safetensors"]
    [recorded] = (chain.root / ".othink/mlflow/artifacts").rglob("base.json")
    told = json.loads(recorded.read_text())
    assert (told["name"], told["revision"], len(told["sha256"])) == (HUB, COMMIT, 64)
    assert f"Base: {HUB} at revision {COMMIT}." in registry.evidence(chain.root, entry, "model_card.md").read_text()


def test_an_adapters_folder_is_asked_and_merged_on_the_command_line(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = leave_adapter(chain)
    for file in ("params.yaml", "dvc.yaml", "steps/resolve.py"):
        (chain.root / file).parent.mkdir(exist_ok=True)
        shutil.copy(Path(__file__).parents[2] / file, chain.root / file)
    monkeypatch.chdir(chain.root)
    Path("picture.png").write_bytes(base64.b64decode(picture_text()))
    question = ("predict", "--task", TASK, "--image", "picture.png", "--question", "How many?", "--json", "--model")

    def said(model: Path) -> str:
        done = CliRunner().invoke(app, [*question, str(model)])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["completion"]

    merged = CliRunner().invoke(app, ["merge", str(folder), "merged"])
    assert (merged.exit_code, merged.stdout) == (0, f"{folder} and its base are one model in merged\n")
    assert said(folder) == said(Path("merged")) != said(chain.weights)
    again = CliRunner().invoke(app, ["merge", str(folder), "merged"])
    assert (again.exit_code, again.stderr) == (1, "othink: merged is there already; give a folder that is not\n")
    shutil.rmtree("models/base")
    lost = CliRunner().invoke(app, [*question, str(folder)])
    assert lost.exit_code == 1
    assert lost.stderr.splitlines()[-1].endswith("models/base, which is not there")
