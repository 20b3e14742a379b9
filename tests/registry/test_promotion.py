"""Registration, gates, the champion and the way back, with real weights in a real MLflow."""

import base64
import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from flows.promotion import best_method, promote, register_candidate, rollback
from othink_mr1 import registry, tracking_store
from othink_mr1.errors import UserError
from othink_mr1.models.loading import save_model
from othink_mr1.models.tiny import build_model, build_processor
from othink_mr1.settings import Promotion

TASK = "counting"
N = 60


class Settings:
    """What promotion reads of the configuration."""

    promotion = Promotion()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny, untrained Qwen2-VL."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    processor = build_processor(["How many items are there in the image? <think> 1 2 3 </think>"] * 5, 400)
    save_model(build_model(processor, hidden_size=64, num_hidden_layers=1, vision_depth=1), processor, folder)
    return folder


class Chain:
    """Leaves models as the pipeline's stages do: weights, scores and predictions, and DVC's record of them."""

    def __init__(self, project: Any, weights: Path) -> None:
        self.project, self.root, self.weights = project, project.root, weights
        project.write(".othink/params.yaml", "evaluation: {max_new_tokens: {counting: 8}, batch_size: 2}\nbase: {}\n")
        project.write("data/counting/provenance.json", {"rows": {"train": 100}})
        self.evaluated("base", {"counting": 20, "geometry": 20})

    def evaluated(self, model: str, right: dict[str, int], items: str = "i", md5: str = "") -> None:
        rows, tasks = [], {}
        for task, correct in right.items():
            accuracy = correct / N
            strict = {"correct": correct, "accuracy": accuracy, "ci95": [accuracy - 0.1, accuracy + 0.1]}
            tasks[task] = {"n": N, "strict": strict, "format_accuracy": 1.0}
            for kind in ("reasoning", "direct"):
                for k in range(N):
                    good = k < correct if kind == "reasoning" else False
                    rows.append({"sample_id": f"{items}{k}", "task": task, "prompt_kind": kind, "correct_strict": good})
        self.project.write(f"evaluation/{model}/metrics.json", json.dumps({"model": model, "tasks": tasks}))
        pq.write_table(pa.Table.from_pylist(rows), self.root / "evaluation" / model / "predictions.parquet")
        digest = md5 or f"{hash((model, tuple(right.items()), items)) & (2**128 - 1):032x}"
        self.project.lock(f"evaluate@{model}", {f"models/{model}": "m" * 32}, {f"evaluation/{model}": digest + ".dir"})

    def trained(self, name: str, counting: int, geometry: int, method: str = "grpo_d", items: str = "i") -> None:
        """A model whose weights are called `name`."""
        folder = self.root / "models" / f"{method}-{TASK}"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(self.weights)
        self.project.lock(
            f"train@{method}-{TASK}", {"models/base": "b" * 32}, {f"models/{method}-{TASK}": f"{name:0<32}.dir"}
        )
        self.evaluated(f"{method}-{TASK}", {"counting": counting, "geometry": geometry}, items)
        # The weights' digest as evaluation saw them.
        self.project.lock(
            f"evaluate@{method}-{TASK}",
            {f"models/{method}-{TASK}": f"{name:0<32}.dir"},
            {f"evaluation/{method}-{TASK}": f"{name}{counting}{geometry}{items}"},
        )

    def candidate(self, name: str, counting: int, geometry: int = 20, items: str = "i") -> registry.Version:
        self.trained(name, counting, geometry, items=items)
        return register_candidate(self.root, Settings(), TASK)  # type: ignore[arg-type]

    def promote(self, version: Any = None, **options: Any) -> Any:
        return promote(self.root, Settings(), TASK, version, **options)  # type: ignore[arg-type]

    @property
    def champion(self) -> int | None:
        found = registry.champion(self.root, TASK)
        return found.version if found else None


@pytest.fixture
def chain(project: Any, weights: Path) -> Chain:
    return Chain(project, weights)


def picture_text() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


# --- registration ---------------------------------------------------------------------------------------------------


def test_a_registered_model_answers_in_a_fresh_process_outside_the_project(chain: Chain, tmp_path: Path) -> None:
    entry = chain.candidate("a", 40)
    assert entry.aliases == ("candidate",)
    code = (
        "import json, sys\nimport mlflow, pandas as pd\nmlflow.set_tracking_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model('models:/othink-mr1-counting@candidate')\n"
        "frame = pd.DataFrame({'image': [sys.argv[2]] * 3, 'question': ['How many items are there?'] * 3})\n"
        "print(json.dumps(model.predict(frame).to_dict('list')))\n"
        "import othink_mr1; print(othink_mr1.__file__)\n"
    )
    uri = tracking_store.store(chain.root).uri
    command = [sys.executable, "-c", code, uri, picture_text()]
    environment = {"PATH": "/usr/bin:/bin", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    reply, module = done.stdout.strip().splitlines()[-2:]
    columns = json.loads(reply)
    assert set(columns) == {"thinking", "answer", "completion"}
    assert len(set(columns["completion"])) == 1
    assert len(columns["completion"]) == 3
    assert str(Path(registry.__file__).parent) not in module, "the code that was saved with the model runs"


def test_a_version_says_where_it_comes_from_and_holds_no_pickle(chain: Chain) -> None:
    entry = chain.candidate("a", 40, 15)
    assert entry.tags["othink.method"] == "grpo_d"
    assert entry.tags["accuracy.same_task"] == f"{40 / N:.4f}"
    assert entry.tags["accuracy.cross_task"] == f"{15 / N:.4f}"
    assert entry.tags["dvc.models/grpo_d-counting"] == f"{'a':0<32}.dir"
    client = tracking_store.store(chain.root).client()
    description = client.get_model_version(entry.name, str(entry.version)).description
    assert "| counting (same task) | 60 | 66.7%" in description
    files = [path.name for path in (chain.root / ".othink/mlflow/artifacts").rglob("*") if path.is_file()]
    assert "model.safetensors" in files
    assert "python_model.pkl" not in files
    assert not [name for name in files if name.endswith((".pkl", ".pt", ".bin", ".pyc"))]
    [pinned] = (chain.root / ".othink/mlflow/artifacts").rglob("requirements.txt")
    assert f"torch=={torch.__version__.partition('+')[0]}\n" in pinned.read_text() + "\n"
    assert not list((chain.root / ".othink/tmp").iterdir())


def test_the_same_weights_are_registered_once(chain: Chain) -> None:
    first = chain.candidate("a", 40)
    assert chain.candidate("a", 40).version == first.version
    assert chain.candidate("b", 41).version == first.version + 1
    assert len(registry.versions(chain.root, TASK)) == 2


def test_a_new_evaluation_of_the_same_weights_refreshes_the_evidence(chain: Chain) -> None:
    chain.candidate("a", 40)
    again = chain.candidate("a", 44)
    assert again.version == 1
    assert again.tags["accuracy.same_task"] == f"{44 / N:.4f}"
    table = pq.read_table(registry.evidence(chain.root, again, "predictions.parquet")).to_pylist()
    assert sum(row["correct_strict"] for row in table if row["task"] == TASK) == 44


def test_what_was_not_trained_cannot_be_registered(chain: Chain) -> None:
    with pytest.raises(UserError, match="sft-counting cannot be registered: stage train@sft-counting has not run"):
        register_candidate(chain.root, Settings(), TASK, method="sft")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="task: 'colour' is unknown"):
        registry.versions(chain.root, "colour")


def test_registration_says_when_mlflow_is_away(chain: Chain, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking_store.connect(chain.root)
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        chain.candidate("a", 40)


def test_best_is_highest_on_validation_and_never_looks_at_the_test_set(chain: Chain) -> None:
    for method, last in (("sft", 0.5), ("grpo", 0.7), ("grpo_d", 0.6)):
        text = f"step,eval_accuracy,loss\n1,0.9,1\n2,,1\n3,{last},1\n4,,1\n"
        chain.project.write(f"training/{method}-{TASK}/curves.csv", text)
    assert best_method(chain.root, TASK) == "grpo"
    chain.project.write(f"training/grpo-{TASK}/curves.csv", "step,loss\n1,1\n")
    with pytest.raises(UserError, match="no eval_accuracy"):
        best_method(chain.root, TASK)


# --- promotion ------------------------------------------------------------------------------------------------------


def test_the_first_champion_is_held_against_its_base(chain: Chain) -> None:
    chain.candidate("a", 19)
    result = chain.promote()
    assert (result.outcome, chain.champion) == ("refused", None)
    assert "counting: 31.7% against 33.3% of base" in result.says
    chain.candidate("b", 40)
    result = chain.promote()
    assert (result.outcome, result.before, chain.champion) == ("promoted", None, 2)
    champion = registry.version(chain.root, TASK, "champion")
    assert champion.aliases == ("champion",)
    assert champion.tags["gates"] == "passed"


def test_a_better_or_equal_challenger_replaces_the_champion(chain: Chain) -> None:
    chain.candidate("a", 40)
    chain.promote()
    chain.candidate("b", 50)
    assert chain.promote().outcome == "promoted"
    chain.candidate("c", 50)
    result = chain.promote()
    assert (result.outcome, result.before, chain.champion) == ("promoted", 2, 3)
    assert [gate.passed for gate in result.gates] == [True, True]


def test_a_worse_challenger_stays_a_candidate_and_the_version_says_why(chain: Chain) -> None:
    chain.candidate("a", 50)
    chain.promote()
    chain.candidate("b", 35)
    result = chain.promote()
    assert (result.outcome, chain.champion) == ("refused", 1)
    entry = registry.version(chain.root, TASK, "candidate")
    assert entry.version == 2
    assert entry.tags["gates"] == "failed"
    assert entry.tags["gate.same task not worse than champion"].startswith("failed: counting: 58.3% against 83.3%")


def test_a_challenger_that_loses_the_cross_task_is_refused(chain: Chain) -> None:
    chain.candidate("a", 40, 30)
    chain.promote()
    chain.candidate("b", 50, 20)
    result = chain.promote()
    assert (result.outcome, chain.champion) == ("refused", 1)
    assert "geometry: 33.3% against 50.0% of version 1" in result.says


def test_the_champion_itself_is_nothing_to_do(chain: Chain) -> None:
    chain.candidate("a", 40)
    chain.promote()
    chain.candidate("a", 40)  # a scheduled run that changed nothing
    for version in (None, 1, "champion"):
        result = chain.promote(version)
        assert (result.outcome, chain.champion) == ("unchanged", 1)


def test_another_test_set_is_not_compared_with_the_old_one(chain: Chain) -> None:
    chain.candidate("a", 40)
    chain.promote()
    chain.evaluated("base", {"counting": 20, "geometry": 20}, items="new")
    chain.candidate("b", 45, items="new")
    with pytest.raises(UserError, match="test set has changed: champion version 1 answered 60 items"):
        chain.promote()
    assert chain.champion == 1
    assert chain.promote(new_test_set=True).outcome == "promoted"
    assert chain.champion == 2


def test_the_comparison_needs_no_file_of_the_run_that_made_the_champion(chain: Chain) -> None:
    import shutil

    chain.candidate("a", 40)
    chain.promote()
    chain.candidate("b", 45)
    for folder in ("evaluation", "models", "data"):
        shutil.rmtree(chain.root / folder)
    assert chain.promote().outcome == "promoted"


def test_concurrent_promotions_leave_one_champion_and_a_whole_history(chain: Chain) -> None:
    chain.candidate("a", 40)
    chain.promote()
    for name in ("b", "c", "d"):
        chain.candidate(name, 45)
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(chain.promote, [2, 3, 4]))
    assert [result.outcome for result in results] == ["promoted"] * 3
    order = [chain.champion]
    for _ in range(3):
        rollback(chain.root, TASK)
        order.append(chain.champion)
    assert sorted(order) == [1, 2, 3, 4]  # type: ignore[type-var]
    assert order[-1] == 1


# --- rollback -------------------------------------------------------------------------------------------------------


def test_rollback_puts_the_last_champion_back_until_there_is_none(chain: Chain) -> None:
    with pytest.raises(UserError, match="has no version yet"):
        rollback(chain.root, TASK)
    chain.candidate("a", 40)
    with pytest.raises(UserError, match="has no champion yet"):
        rollback(chain.root, TASK)
    chain.promote()
    chain.candidate("b", 45)
    chain.promote()
    assert rollback(chain.root, TASK).version == 1
    assert chain.champion == 1
    with pytest.raises(UserError, match="version 1 is champion, and none was before it"):
        rollback(chain.root, TASK)


def test_a_scheduled_run_does_not_undo_a_rollback(chain: Chain) -> None:
    chain.candidate("a", 40)
    chain.promote()
    chain.candidate("b", 45)
    chain.promote()
    rollback(chain.root, TASK)
    chain.candidate("b", 45)  # the next run comes to the same weights
    result = chain.promote()
    assert (result.outcome, chain.champion) == ("refused", 1)
    assert "rolled back by hand" in result.says
    assert chain.promote(2).outcome == "promoted"
    assert chain.champion == 2


def test_a_version_that_does_not_exist_is_named(chain: Chain) -> None:
    chain.candidate("a", 40)
    with pytest.raises(UserError, match="has no version '7'; there are 1 and their aliases"):
        chain.promote(7)
