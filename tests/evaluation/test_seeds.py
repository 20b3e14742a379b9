"""Several seeds in one table, out of results written by the project's own code."""

import copy
import json
from pathlib import Path

import pytest
import scipy.stats

from othink_mr1.evaluation.seeds import markdown, over_seeds


@pytest.fixture
def one(project: Path) -> dict:
    return json.loads((project / "tables" / "results.json").read_text())


def _shifted(result: dict, method: str, points: float) -> dict:
    other = copy.deepcopy(result)
    for kind in ("same_task", "cross_task"):
        for row in other[kind]:
            if row["method"] == method:
                row["strict"]["accuracy"] += points
    return other


def test_means_and_intervals_are_those_of_the_seeds(one: dict) -> None:
    found = over_seeds({7: _shifted(one, "sft", 0.1), 0: one, 3: _shifted(one, "sft", 0.05)})
    assert found["seeds"] == [0, 3, 7]
    row = next(r for r in found["same-task"]["rows"] if (r["task"], r["method"]) == ("counting", "sft"))
    first = row["strict"]["values"][0]
    assert row["strict"]["values"] == pytest.approx([first, first + 0.05, first + 0.1])
    assert row["strict"]["mean"] == pytest.approx(first + 0.05)
    theirs = scipy.stats.ttest_1samp(row["strict"]["values"], 0).confidence_interval()
    assert row["strict"]["interval"] == pytest.approx([theirs.low, theirs.high])


def test_words_follow_the_corrected_test(one: dict) -> None:
    grown = {seed: _shifted(one, "grpo_d", 0.3 + 0.001 * seed) for seed in range(4)}
    found = over_seeds(grown)["same-task"]["differences"]
    assert len(found) == 10
    above = [d for d in found if (d["first"], d["second"]) == ("grpo_d", "base")]
    assert {d["verdict"] for d in above} == {"better"}
    assert all(d["p_adjusted"] >= d["p"] for d in found)
    text = markdown(over_seeds(grown))
    assert "counting: GRPO-D is better than Base: +" in text


def test_a_single_seed_shows_no_difference_and_has_no_interval(one: dict) -> None:
    found = over_seeds({0: one})
    assert all(d["verdict"] == "no difference shown over one seed" for d in found["same-task"]["differences"])
    assert all(row["strict"]["interval"] is None for row in found["cross-task"]["rows"])
    assert "over the seeds 0" in markdown(found)
