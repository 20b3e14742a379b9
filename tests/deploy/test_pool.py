"""A stage that goes to a work pool runs there: a real server, a real process worker, a real DVC stage."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.conftest import BIN, PATIENCE, Server, api, background

pytestmark = pytest.mark.slow
WORKER = "worker-of-the-gpu-pool"


@pytest.fixture(scope="module")
def worker(deployed: Server, project: Path) -> Iterator[Path]:
    """A worker of the pool `gpu`, in the project's copy; yields its log."""
    environment = {**deployed.environment, "OTHINK_PROJECT": str(project), "PYTHONPATH": str(project)}
    command = [str(BIN / "prefect"), "worker", "start", "--pool", "gpu", "--type", "process", "--name", WORKER]
    log = deployed.folder / "worker.log"
    with background([*command, "--limit", "1"], environment, deployed.folder, log) as process:
        deadline = time.monotonic() + PATIENCE
        while not any(found["name"] == WORKER for found in api(deployed, "/work_pools/gpu/workers/filter", {})):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield log


def send(server: Server, stage: str) -> str:
    """Asks the pool for a stage; gives back the flow run's id."""
    deployment = api(server, "/deployments/name/stage/pooled")
    body = {"parameters": {"name": stage, "profile": "smoke"}, "state": {"type": "SCHEDULED"}}
    return str(api(server, f"/deployments/{deployment['id']}/create_flow_run", body)["id"])


def wait_for(server: Server, run_id: str, log: Path) -> dict:
    deadline = time.monotonic() + PATIENCE
    while (run := api(server, f"/flow_runs/{run_id}"))["state_type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    return dict(run)


def test_a_stage_runs_on_the_worker_of_its_pool(deployed: Server, project: Path, worker: Path) -> None:
    run_id = send(deployed, "prepare_data@counting")
    run = wait_for(deployed, run_id, worker)
    assert run["state_type"] == "COMPLETED", worker.read_text()
    assert (project / "data" / "counting" / "train.parquet").is_file()

    assert run["work_pool_name"] == "gpu"
    assert run_id in worker.read_text()
    # The step says whose it is: the process that the worker started for this flow run.
    status = json.loads((project / ".othink" / "stages" / "prepare_data@counting.json").read_text())
    assert status["state"] == "done"
    assert str(status["owner"]).split(":")[0] == run["infrastructure_pid"].rpartition(":")[2]


def test_a_stage_that_fails_there_fails_here(deployed: Server, worker: Path) -> None:
    run = wait_for(deployed, send(deployed, "no_such_stage"), worker)
    assert run["state_type"] == "FAILED", worker.read_text()
    assert "no_such_stage" in run["state"]["message"]
