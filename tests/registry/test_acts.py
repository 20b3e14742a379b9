"""The outward acts of a run, with a real registry: what they say, and what they leave undone without failing."""

from types import SimpleNamespace
from typing import Any

import pytest

from flows import acts
from othink_mr1 import registry
from othink_mr1.tracking import connection
from tests.registry.chain import TASK, Chain, Settings


def perform(chain: Chain, act: str, promotions: acts.Promotions) -> str:
    asked: Any = SimpleNamespace(root=chain.root, settings=Settings(), params=None)
    return acts.perform(f"{act}@{TASK}", asked, promotions)


def test_a_changed_test_set_leaves_the_champion_and_fails_no_run(chain: Chain) -> None:
    chain.trained("a", 40, 20)
    promotions = acts.Promotions()
    assert perform(chain, "register", promotions) == "othink-mr1-counting version 1 (grpo_d)"
    assert "version 1 (grpo_d) is champion, the first" in perform(chain, "promote", promotions)
    chain.evaluated("base", {"counting": 20, "geometry": 20}, items="smoke")
    chain.trained("b", 45, 20, items="smoke")
    perform(chain, "register", promotions)
    assert "--new-test-set" in perform(chain, "promote", promotions)
    assert chain.champion == 1
    assert registry.version(chain.root, TASK, "candidate").version == 2
    assert promotions.over({})[TASK]["promoted"] is False


def test_a_run_that_changed_nothing_asks_no_gate_again(chain: Chain) -> None:
    chain.trained("a", 15, 20)
    promotions = acts.Promotions()
    perform(chain, "register", promotions)
    first = perform(chain, "promote", promotions)
    answers = list((chain.root / ".othink/mlflow/artifacts").rglob("predictions.parquet"))
    assert answers
    for file in answers:
        file.rename(file.with_suffix(".away"))
    later = acts.Promotions()
    again = perform(chain, "promote", later)  # without the answers, which it would need to ask
    assert first.removeprefix("version 1 stays a candidate: ") in again
    assert later.empty, "the report keeps what it has"
    chain.evaluated("base", {"counting": 14, "geometry": 20}, md5="e" * 32)
    perform(chain, "register", later)  # brings the new answers
    assert "is champion, the first" in perform(chain, "promote", later)


@pytest.mark.parametrize("act", ["register", "promote"])
def test_without_mlflow_an_act_says_what_was_not_done(chain: Chain, act: str, monkeypatch: Any) -> None:
    chain.trained("a", 40, 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    connection.connect(chain.root)
    with pytest.raises(connection.StoreAwayError) as told:
        perform(chain, act, acts.Promotions())
    done = {"register": "not registered", "promote": "not promoted"}[act]
    assert str(told.value) == f"{TASK}: {done}: MLflow at http://127.0.0.1:9 does not answer (Connection refused)"
