"""A step that refuses its input: nothing after it runs, and what it had made before stays."""

import json
from pathlib import Path

from tests.flows.conftest import othink, set_knobs


def test_data_that_are_refused_leave_the_last_good_ones_in_place(project: Path) -> None:
    first = othink(project, "run", "--json")
    assert first.returncode == 0, first.stderr
    outputs = [*project.glob("data/*/*/*"), *project.glob("data_docs/*/*"), *project.glob("models/*/*")]
    good = {path: path.read_bytes() for path in outputs}
    assert len(good) > 10
    set_knobs(project, **{"prepare_data@counting": {"fail": "data.counting: too many rows put aside; see there"}})
    refused = othink(project, "run", "--set", "data.counting.train.rows=77")
    assert refused.returncode == 1
    told = refused.stderr.splitlines()[-1]
    assert told.startswith("othink: prepare_data@counting: data.counting: too many rows put aside; see there (1 steps ")
    assert {path: path.read_bytes() for path in outputs} == good
    states = {step["name"]: step["state"] for step in json.loads(othink(project, "status", "--json").stdout)["steps"]}
    assert states["prepare_data@counting"] == "failed"
    assert states["prepare_data@geometry"] == "done"

    set_knobs(project)
    assert othink(project, "run", "--set", "data.counting.train.rows=77").returncode == 0
    assert (project / "data/counting/train/rows.txt").read_bytes() != good[project / "data/counting/train/rows.txt"]
