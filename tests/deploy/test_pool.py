"""A stage that goes to a work pool runs there: a real server, a real process worker, a real DVC stage."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from othink_mr1 import config, processes, stages
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


def test_a_stage_that_fails_there_fails_here(deployed: Server, worker: Path) -> None:
    run = wait_for(deployed, send(deployed, "no_such_stage"), worker)
    assert run["state_type"] == "FAILED", worker.read_text()
    assert "no_such_stage" in run["state"]["message"]


def test_the_pipeline_sends_training_to_the_pool_that_params_yaml_names(
    deployed: Server, project: Path, worker: Path
) -> None:
    step = "train@sft-counting"
    environment = {**deployed.environment, "PYTHONPATH": str(project)}
    # What the step builds on is made here, so that what the worker makes is seen apart.
    config.write_selection(project, "smoke", [])
    for command in (
        [str(BIN / "dvc"), "repro", "base_model", "prepare_data@counting"],
        [str(BIN / "othink"), "run", "--profile", "smoke", "--only", step, "--set", "pools.train=gpu"],
    ):
        result = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=2 * PATIENCE
        )
        assert result.returncode == 0, result.stdout + result.stderr + worker.read_text()
    assert (project / "models" / "sft-counting" / "model.safetensors").is_file()

    named = {"flow_runs": {"name": {"any_": [step]}}}
    (run,) = api(deployed, "/flow_runs/filter", named)
    assert run["work_pool_name"] == "gpu"
    assert run["state_type"] == "COMPLETED"
    assert run["parent_task_run_id"] is not None, "it is not the pipeline's own"
    assert run["id"] in worker.read_text()
    # The step says whose it is: the process that the worker started for this flow run.
    status = json.loads((project / ".othink" / "stages" / f"{step}.json").read_text())
    assert status["state"] == "done"
    assert str(status["owner"]).split(":")[0] == run["infrastructure_pid"].rpartition(":")[2]


LONG = ("--only", "train@sft-counting", "--set", "pools.train=gpu", "--set", "sft.max_steps=100000")


def long_run(server: Server, project: Path, log: Path) -> "tuple[subprocess.Popen[str], processes.Process]":
    """Start a run whose training goes to the pool and takes long; yields it once the step is at work there."""
    began = time.time()
    run = subprocess.Popen(
        [str(BIN / "othink"), "run", "--profile", "smoke", *LONG],
        cwd=project,
        env={**server.environment, "PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = stages.read_status("train@sft-counting", project) or {}
        if status.get("started_at", 0) > began and status["progress"]["done"] > 1:
            step = processes.find(status["pid"])
            assert step is not None
            return run, step
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.2)
    run.kill()
    raise AssertionError(log.read_text())


def latest(server: Server) -> dict:
    named = {"flow_runs": {"name": {"any_": ["train@sft-counting"]}}, "sort": "START_TIME_DESC", "limit": 1}
    return dict(api(server, "/flow_runs/filter", named)[0])


def test_a_stop_reaches_the_stage_in_the_pool(deployed: Server, project: Path, worker: Path) -> None:
    run, step = long_run(deployed, project, worker)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130, output
    assert not step.alive
    assert latest(deployed)["state_type"] == "CANCELLED", worker.read_text()
    assert (stages.read_status("train@sft-counting", project) or {})["state"] == "interrupted"
    assert list((project / ".othink" / "checkpoints").glob("train@sft-counting-*/checkpoint-*"))


def test_what_a_killed_run_left_in_the_pool_is_cancelled_by_the_next(
    deployed: Server, project: Path, worker: Path
) -> None:
    run, step = long_run(deployed, project, worker)
    run.kill()
    run.communicate()
    assert step.alive
    command = [str(BIN / "othink"), "run", "--profile", "smoke", "--only", "resolve"]
    environment = {**deployed.environment, "PYTHONPATH": str(project)}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert not step.alive
    assert latest(deployed)["state_type"] == "CANCELLED"
    assert not list((project / ".othink" / "runs").glob("*.json"))
