"""Registration, gates, the champion and the way back, with real weights in a real MLflow."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from flows.promotion import best_method, register_candidate, rollback
from othink_mr1 import registry
from othink_mr1.errors import UserError
from othink_mr1.tracking import connection
from tests.registry.chain import TASK, Chain, N, Settings, picture_text

# --- registration ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
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
    uri = connection.store(chain.root).uri
    command = [sys.executable, "-c", code, uri, picture_text()]
    environment = {"PATH": "/usr/bin:/bin", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    reply, module = done.stdout.strip().splitlines()[-2:]
    columns = json.loads(reply)
    assert set(columns) == {"thinking", "answer", "completion"}
    assert len(set(columns["completion"])) == 1
    assert len(columns["completion"]) == 3
    assert str(Path(registry.__file__).parents[1]) not in module, "the code that was saved with the model runs"


def test_a_version_says_where_it_comes_from_and_holds_no_pickle(chain: Chain) -> None:
    entry = chain.candidate("a", 40, 15)
    assert entry.tags["othink.method"] == "grpo_d"
    assert entry.tags["accuracy.same_task"] == f"{40 / N:.4f}"
    assert entry.tags["accuracy.cross_task"] == f"{15 / N:.4f}"
    assert entry.tags["dvc.models/grpo_d-counting"] == f"{'a':0<32}.dir"
    client = connection.store(chain.root).client()
    description = client.get_model_version(entry.name, str(entry.version)).description
    assert "| counting (same task) | 60 | 66.7%" in description
    assert "- train: 100 rows, licence Apache-2.0" in description
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
    connection.connect(chain.root)
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
    chain.candidate("even", 20)
    assert (chain.promote().outcome, chain.champion) == ("refused", None)
    chain.candidate("b", 40)
    result = chain.promote()
    assert (result.outcome, result.before, chain.champion) == ("promoted", None, 3)
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
    result = chain.promote()
    assert (result.outcome, result.gates, chain.champion) == ("refused", (), 1)
    assert "test set has changed: champion version 1 answered 60 items" in result.says
    assert "`othink promote --task counting --new-test-set`" in result.says
    assert registry.version(chain.root, TASK, "candidate").tags["gates"] == "not comparable"
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
