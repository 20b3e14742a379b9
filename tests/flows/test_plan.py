"""What would run and why, by a graph whose stages were all run."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from flows import plan
from flows.plan import CACHED, OUTSIDE, RUN
from flows.request import stage_params
from othink_mr1 import config
from othink_mr1.errors import UserError
from tests.flows.conftest import REPO

PARAMS = config.resolve("smoke", [], REPO)


@pytest.fixture(scope="module")
def fresh() -> dict[str, plan.Node]:
    """The graph of this project as if no stage had ever run."""
    return {
        name: replace(node, locked_params=None, differences=(), missing=())
        for name, node in plan.read_graph(REPO).items()
    }


@pytest.fixture
def graph(fresh: dict[str, plan.Node]) -> dict[str, plan.Node]:
    """The same with every stage done under PARAMS."""
    return {
        name: replace(node, locked_params={key: plan._lookup(PARAMS, key) for key in node.params})
        for name, node in fresh.items()
    }


def to_run(steps: dict[str, plan.StepPlan]) -> list[str]:
    return [name for name, step in steps.items() if step.action == RUN and name not in plan.ACTS]


def test_nothing_runs_when_nothing_changed(graph: dict[str, plan.Node]) -> None:
    steps = plan.make_plan(graph, PARAMS, PARAMS)
    assert {step.action for name, step in steps.items() if name in graph} == {CACHED}


def test_everything_runs_in_a_fresh_clone(fresh: dict[str, plan.Node]) -> None:
    steps = plan.make_plan(fresh, PARAMS, None)
    assert to_run(steps) == list(fresh)
    assert steps["train@sft-counting"].reasons[0] == "never ran"


def test_a_changed_key_runs_the_stages_that_read_it_and_what_follows(graph: dict[str, plan.Node]) -> None:
    after = config.resolve("smoke", ["grpo_d.beta_max=0.2"], REPO)
    steps = plan.make_plan(graph, after, PARAMS)
    assert to_run(steps) == [
        "resolve",
        "train@grpo_d-counting",
        "train@grpo_d-geometry",
        "evaluate@grpo_d-counting",
        "evaluate@grpo_d-geometry",
        "tables",
    ]
    assert steps["train@grpo_d-counting"].reasons == ["train.grpo_d.counting.beta_max: 0.1 → 0.2"]
    assert steps["evaluate@grpo_d-counting"].reasons == ["follows train@grpo_d-counting"]


def test_how_answers_are_generated_at_test_trains_nothing(graph: dict[str, plan.Node]) -> None:
    steps = plan.make_plan(graph, config.resolve("smoke", ["evaluation.batch_size=3"], REPO), PARAMS)
    assert {name.partition("@")[0] for name in to_run(steps)} == {"resolve", "evaluate", "tables"}


def test_what_a_machine_decides_runs_nothing(graph: dict[str, plan.Node]) -> None:
    moved: dict[str, Any] = copy.deepcopy(PARAMS)
    moved["local"]["paths"]["base"] = "/elsewhere"
    assert to_run(plan.make_plan(graph, moved, PARAMS)) == ["resolve"]


def test_from_begins_at_a_step(graph: dict[str, plan.Node]) -> None:
    steps = plan.make_plan(graph, PARAMS, PARAMS, from_step="evaluate@sft-counting", force=True)
    assert to_run(steps) == ["evaluate@sft-counting", "tables"]
    assert steps["evaluate@base"].action == OUTSIDE
    assert steps["report"].action == RUN


def test_from_an_act_runs_the_acts_that_follow(graph: dict[str, plan.Node]) -> None:
    steps = plan.make_plan(graph, PARAMS, PARAMS, from_step="promote@counting")
    assert [name for name, step in steps.items() if step.action == RUN] == ["promote@counting", "report"]


def test_only_runs_one_step(graph: dict[str, plan.Node]) -> None:
    steps = plan.make_plan(graph, PARAMS, PARAMS, only="tables", force=True)
    assert [name for name, step in steps.items() if step.action == RUN] == ["tables"]


@pytest.mark.parametrize(
    ("word", "number", "one"),
    [
        ("train", 6, "train@grpo-geometry"),
        ("grpo_d", 4, "evaluate@grpo_d-counting"),
        ("grpo_d-counting", 2, "train@grpo_d-counting"),
        ("evaluate@base", 1, "evaluate@base"),
        ("promote", 2, "promote@geometry"),
    ],
)
def test_a_short_name_means_all_steps_that_share_it(
    graph: dict[str, plan.Node], word: str, number: int, one: str
) -> None:
    found = plan.match_steps([*graph, *plan.ACTS], word)
    assert len(found) == number
    assert one in found


def test_an_unknown_step_is_told_the_known_ones(graph: dict[str, plan.Node]) -> None:
    with pytest.raises(plan.UnknownStepError, match=r"step 'trian' is unknown; did you mean 'train'\?.*tables"):
        plan.make_plan(graph, PARAMS, PARAMS, only="trian")


def test_a_plan_that_leaves_out_a_missing_input_is_refused(graph: dict[str, plan.Node]) -> None:
    graph["tables"] = replace(graph["tables"], missing=("evaluation/base",))
    steps = plan.make_plan(graph, PARAMS, PARAMS, only="tables", force=True)
    with pytest.raises(UserError, match=r"tables needs evaluation/base, which is missing: .*--from evaluate@base"):
        plan.check_inputs(graph, steps)


def test_a_stages_settings_have_the_same_names_for_every_method() -> None:
    grpo, dynamic = (stage_params(f"train@{method}-counting", PARAMS) for method in ("grpo", "grpo_d"))
    assert grpo["learning_rate"] == dynamic["learning_rate"]
    assert {"seed", "threads", "kl_schedule"} <= set(dynamic)
