"""The commands about models, as a user calls them, in a project folder with a real MLflow."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from flows.cli import app
from othink_mr1 import registry
from othink_mr1.tracking import connection
from tests.registry.chain import TASK, Chain

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def inside(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """The current folder is the project's."""
    for file in ("params.yaml", "dvc.yaml", "steps/resolve.py"):
        (chain.root / file).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / file, chain.root / file)
    Image.new("RGB", (64, 48), "red").save(chain.root / "picture.png")
    monkeypatch.chdir(chain.root)
    return chain


def othink(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def fails(*arguments: str) -> str:
    """The line that a failing command leaves on stderr."""
    result = othink(*arguments)
    assert result.exit_code == 1, result.output
    [line] = result.stderr.strip().splitlines()
    return line


def ask(image: str, model: str = "champion", task: str = TASK) -> list[str]:
    return ["predict", "--task", task, "--image", image, "--question", "How many?", "--model", model]


def test_models_promote_and_rollback_tell_one_story(inside: Chain) -> None:
    assert "no model is registered yet" in othink("models").stdout
    inside.candidate("a", 40)
    first = othink("promote", "--task", TASK)
    assert first.exit_code == 0
    assert "passed  same task above base" in first.stdout
    assert "counting: version 1 (grpo_d) is champion, the first" in first.stdout
    inside.candidate("b", 20)
    refused = othink("promote", "--task", TASK)
    assert refused.exit_code == 1
    assert "FAILED  same task not worse than champion" in refused.stdout
    assert refused.stderr.startswith("othink: counting: version 2 stays a candidate")
    [two, one] = json.loads(othink("models", "--json").stdout)
    assert (one["version"], one["aliases"], one["method"]) == (1, ["champion"], "grpo_d")
    assert (two["aliases"], two["tags"]["gates"]) == (["candidate"], "failed")
    table = othink("models", "--task", TASK).stdout
    assert "failed against version 1" in table
    assert "none was before it" in fails("rollback", "--task", TASK)


def test_a_changed_test_set_is_refused_in_one_line_with_the_way_out(inside: Chain) -> None:
    inside.candidate("a", 40)
    inside.promote()
    inside.evaluated("base", {"counting": 20, "geometry": 20}, items="new")
    inside.candidate("b", 45, items="new")
    assert "the counting test set has changed" in (line := fails("promote", "--task", TASK))
    assert "--new-test-set" in line
    assert "not comparable against version 1" in othink("models", "--task", TASK).stdout
    assert othink("promote", "--task", TASK, "--new-test-set").exit_code == 0


def test_promote_in_json_is_for_programs(inside: Chain) -> None:
    inside.candidate("a", 40)
    decided = json.loads(othink("promote", "--task", TASK, "--json").stdout)
    assert decided["outcome"] == "promoted"
    assert decided["gates"][0]["difference"] == pytest.approx(20 / 60)


def test_predict_asks_the_champion_a_version_or_a_folder(inside: Chain) -> None:
    inside.candidate("a", 40)
    inside.promote()
    for model in ("champion", "1", str(inside.weights)):
        result = othink(*ask("picture.png", model), "--json")
        assert result.exit_code == 0, result.output
        reply = json.loads(result.stdout)
        assert set(reply) == {"model", "thinking", "answer", "completion"}
    assert "answer: " in othink(*ask("picture.png")).stdout


def test_predict_says_in_one_line_what_is_wrong(inside: Chain) -> None:
    Image.new("RGB", (3, 3)).save("small.png")
    Path("text.png").write_text("no picture")
    Path("empty").mkdir()
    assert "has no version yet; `othink run` registers one" in fails(*ask("picture.png"))
    inside.candidate("a", 40)
    assert "has no champion yet; `othink promote --task counting`" in fails(*ask("picture.png"))
    assert "has no version '9'" in fails(*ask("picture.png", "9"))
    assert "absent.png: No such file or directory" in fails(*ask("absent.png"))
    assert "text.png: picture unreadable" in fails(*ask("text.png"))
    assert "small.png: picture too small: 3x3 pixels" in fails(*ask("small.png"))
    assert "empty: Is a directory" in fails(*ask("empty"))
    assert "no config.json" in fails(*ask("picture.png", "empty"))
    assert "task: 'colour' is unknown; it should be one of counting, geometry" in fails(
        *ask("picture.png", task="colour")
    )


def test_outside_the_project_there_is_one_line(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert "not inside the project" in fails("models")


def test_the_step_registers_where_params_yaml_says(inside: Chain, tmp_path: Path, monkeypatch: Any) -> None:
    from steps.register import main

    inside.trained("a", 40, 20)
    params = inside.root / "params.yaml"
    address = f"sqlite:///{tmp_path}/elsewhere.db"
    for default, other in (("uri: null", f"uri: {address}"), ("experiment: othink-mr1", "experiment: mine")):
        assert default in params.read_text()
        params.write_text(params.read_text().replace(default, other))
    assert main(["--task", TASK]) == 0
    store = connection.store(inside.root)
    assert (store.uri, store.experiment) == (address, "mine")
    assert [entry.version for entry in registry.versions(inside.root, TASK)] == [1]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # MLflow sets it when it is told where to go
    connection.connect(inside.root)  # the folder's own database
    assert registry.versions(inside.root, TASK) == []
