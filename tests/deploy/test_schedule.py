"""prefect.yaml on a real server: the pipeline falls due by itself, at the hour it names, and never twice at a time."""

import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml

from tests.deploy.conftest import PATIENCE, Server, api, run_deploy

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {
    deployment["name"]: deployment for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scheduled(deployed: Server) -> dict:
    return api(deployed, "/deployments/name/pipeline/scheduled")


def test_the_deployment_has_the_schedule_of_prefect_yaml(scheduled: dict) -> None:
    (schedule,) = scheduled["schedules"]
    (written,) = WRITTEN["scheduled"]["schedules"]
    assert schedule["active"]
    assert schedule["schedule"]["cron"] == written["cron"]
    assert schedule["schedule"]["timezone"] == written["timezone"]
    assert scheduled["work_pool_name"] == "default"


def test_runs_do_not_overlap(scheduled: dict) -> None:
    assert scheduled["global_concurrency_limit"]["limit"] == 1
    assert scheduled["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


def test_the_server_plans_runs_at_the_hour_of_the_schedule(deployed: Server, scheduled: dict) -> None:
    wanted = {
        "deployments": {"id": {"any_": [scheduled["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    deadline = time.monotonic() + PATIENCE
    while not (runs := api(deployed, "/flow_runs/filter", wanted)):
        assert time.monotonic() < deadline, "the server planned no run"
        time.sleep(1)
    (written,) = WRITTEN["scheduled"]["schedules"]
    minute, hour, *_, weekday = written["cron"].split()
    for run in runs:
        due = datetime.fromisoformat(run["expected_start_time"].replace("Z", "+00:00"))
        local = due.astimezone(ZoneInfo(written["timezone"]))
        assert (local.minute, local.hour, local.isoweekday()) == (int(minute), int(hour), int(weekday))


def test_the_pipeline_is_told_nothing_that_the_flow_does_not_take(scheduled: dict) -> None:
    assert set(scheduled["parameters"]) <= set(scheduled["parameter_openapi_schema"]["properties"])


def test_the_folder_is_the_workers_to_say(scheduled: dict) -> None:
    (step,) = scheduled["pull_steps"]
    assert step["prefect.deployments.steps.set_working_directory"]["directory"] == "{{ $OTHINK_PROJECT }}"


def test_each_pool_of_params_yaml_gets_the_stage_deployment(deployed: Server) -> None:
    found = api(deployed, "/deployments/filter", {"flows": {"name": {"any_": ["stage"]}}})
    assert {(entry["name"], entry["work_pool_name"]) for entry in found} == {("pooled", "gpu"), ("pooled-a100", "a100")}


def test_deploying_again_changes_nothing(deployed: Server, project: Path) -> None:
    before = api(deployed, "/deployments/filter", {})
    assert run_deploy(project, deployed.environment).returncode == 0
    after = api(deployed, "/deployments/filter", {})
    assert {entry["id"] for entry in after} == {entry["id"] for entry in before}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"PREFECT_API_URL": ""}, "PREFECT_API_URL is not set"),
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "does not answer"),
        ({"PREFECT_API_AUTH_STRING": "wrong:wrong"}, "set PREFECT_API_AUTH_STRING"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_clear_line(
    deployed: Server, project: Path, change: dict[str, str], said: str
) -> None:
    result = run_deploy(project, {**deployed.environment, "PREFECT_CLIENT_MAX_RETRIES": "0", **change})
    assert result.returncode == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
