"""The flow and dvc.yaml are the same graph."""

from collections.abc import Sequence

import pytest

from flows import plan
from flows.pipeline import chain
from tests.flows.conftest import REPO


@pytest.fixture(scope="module")
def dvc() -> dict[str, plan.Node]:
    return plan.read_graph(REPO)


def follows() -> dict[str, set[str]]:
    """Step → every step that the chain runs before it."""
    before: dict[str, set[str]] = {}

    def step(name: str, after: Sequence[str], ended: Sequence[str] = ()) -> str:
        before[name] = set().union(*({other} | before[other] for other in (*after, *ended)))
        return name

    chain(step, step)
    return before


def test_the_flow_has_the_stages_of_dvc(dvc: dict[str, plan.Node]) -> None:
    assert set(follows()) - set(plan.ACTS) == set(dvc)
    assert set(follows()) - set(dvc) == set(plan.ACTS)


def test_the_flow_runs_a_stage_after_exactly_what_it_reads_from(dvc: dict[str, plan.Node]) -> None:
    flow = follows()
    needed: dict[str, set[str]] = {}
    for name, node in dvc.items():
        needed[name] = set(node.upstream).union(*(needed[other] for other in node.upstream))
    assert {name: flow[name] for name in dvc} == needed


def test_acts_follow_every_stage(dvc: dict[str, plan.Node]) -> None:
    flow = follows()
    assert all(set(dvc) <= flow[act] for act in plan.ACTS)
    assert {"register@counting"} <= flow["promote@counting"]
    assert set(plan.ACTS) - {"report"} <= flow["report"]
