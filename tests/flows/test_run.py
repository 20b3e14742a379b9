"""`othink run` with real DVC, Prefect and MLflow around steps that take no time."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from othink_mr1 import processes, stages
from tests.flows.conftest import make_project, othink, othink_command, othink_environment, set_knobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A project in which the smoke profile has run once; tests work on copies of it."""
    folder = make_project(tmp_path_factory.mktemp("finished") / "project")
    for name in ("OTHINK_OWNER", "PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    return folder, othink(folder, "run", "--profile", "smoke", "--json")


@pytest.fixture
def project(finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> Path:
    """A copy of the finished project."""
    return copied(finished[0], tmp_path)


def copied(project: Path, folder: Path) -> Path:
    return shutil.copytree(project, folder / "project", ignore=shutil.ignore_patterns("__pycache__"))


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return {name: entry["outcome"] for name, entry in json.loads(done.stdout)["steps"].items()}


CHANGE = ("--only", "train@sft-counting", "--set", "sft.learning_rate=0.5")


def slow_run(project: Path) -> "tuple[subprocess.Popen[str], processes.Process]":
    """Start a run of `train@sft-counting`, which takes long, and wait until that step is at work."""
    set_knobs(project, **{"train@sft-counting": {"seconds": 60}})
    began = time.time()
    run = subprocess.Popen(
        othink_command("run", "--profile", "smoke", *CHANGE),
        cwd=project,
        env={**othink_environment(project), "OTHINK_GRACE": "10"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status = stages.read_status("train@sft-counting", project) or {}
        if status.get("started_at", 0) > began and status["state"] == "running" and status["progress"]["done"] > 3:
            step = processes.find(status["pid"])
            assert step is not None
            return run, step
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.1)
    run.kill()
    pytest.fail("the step never ran")


def dvc_above(step: processes.Process) -> processes.Process:
    return next(p for p in processes.ancestors(step.pid) if "dvc" in processes.command_line(p.pid))


def test_a_first_run_runs_every_step(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    found = outcomes(finished[1])
    assert set(found.values()) == {"ran", "done"}
    assert len(found) == 23


def test_then_nothing_runs_and_every_step_points_at_its_run(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    first = json.loads(finished[1].stdout)["steps"]
    again = othink(finished[0], "run", "--profile", "smoke", "--json")
    assert {outcome for name, outcome in outcomes(again).items() if "run_id" in first[name]} <= {"cached", "done"}
    second = json.loads(again.stdout)["steps"]
    for name, entry in second.items():
        if entry["outcome"] == "cached":
            assert entry["run_id"] == first[name]["run_id"] is not None, name


def test_dvc_alone_has_nothing_left_to_do(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=project,
        env={**othink_environment(project), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Running stage 'resolve'" in done.stdout  # it always runs
    assert done.stdout.count("Running stage") == 1


def test_a_changed_key_runs_its_stages_and_what_follows_from_a_sub_folder_too(project: Path) -> None:
    arguments = ("run", "--profile", "smoke", "--set", "grpo_d.beta_max=0.2", "--json")
    found = outcomes(othink(project, *arguments, folder=project / "steps"))
    assert {name for name, outcome in found.items() if outcome == "ran"} == {
        "resolve",
        "train@grpo_d-counting",
        "train@grpo_d-geometry",
        "evaluate@grpo_d-counting",
        "evaluate@grpo_d-geometry",
        "tables",
    }
    back = outcomes(othink(project, "run", "--profile", "smoke", "--json"))
    assert {back[name] for name in ("train@grpo_d-counting", "tables")} == {"restored"}


def test_a_run_that_goes_on_after_a_change_of_code_says_so_in_mlflow(project: Path) -> None:
    done = othink(project, "run", "--profile", "smoke", *CHANGE, "--resume-anyway", "--json")
    assert outcomes(done)["train@sft-counting"] == "ran"
    run_id = json.loads(done.stdout)["steps"]["train@sft-counting"]["run_id"]
    database = sqlite3.connect(project / ".othink" / "mlflow" / "mlflow.db")
    found = database.execute("SELECT value FROM tags WHERE run_uuid = ? AND key = 'othink.resumed_anyway'", (run_id,))
    assert found.fetchall() == [("step 3: othink_mr1.sft",)]
    metric = database.execute(
        "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = 'resumed_anyway'", (run_id,)
    )
    assert metric.fetchall() == [(3, 1.0)]
    database.close()


def test_a_server_that_is_away_is_told_of_once_and_stops_nothing(project: Path) -> None:
    arguments = ("--only", "evaluate@base", "--force", "--set", "tracking.uri=http://127.0.0.1:9")
    done = othink(project, "run", "--profile", "smoke", *arguments)
    assert done.returncode == 0, done.stderr
    told = "MLflow at http://127.0.0.1:9 does not answer (Connection refused): the run goes on, and what is missing is"
    assert done.stderr.count(told) == 1


def test_a_failed_step_stops_what_follows_and_nothing_else(project: Path) -> None:
    set_knobs(project, **{"train@sft-counting": {"fail": "rows.jsonl: row 3 is empty"}})
    done = othink(project, "run", "--profile", "smoke", "--set", "sft.learning_rate=0.5", "--set", "flow.retries=2")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "train@sft-counting: rows.jsonl: row 3 is empty" in last
    assert ".othink/logs/train@sft-counting.log" in last
    assert done.stderr.count("rows.jsonl: row 3 is empty") == 2  # once as it happened, once at the end: no retry
    assert "Traceback" not in done.stderr
    assert (stages.read_status("evaluate@sft-geometry", project) or {})["state"] == "done"
    found = json.loads(othink(project, "status", "--json").stdout)["steps"]
    states = {step["name"]: step["state"] for step in found}
    assert states["train@sft-counting"] == "failed"
    assert states["evaluate@sft-counting"] == "stale"
    assert states["train@grpo-counting"] == "done"


def test_a_crashed_step_is_tried_again(project: Path) -> None:
    set_knobs(project, **{"train@sft-counting": {"crash": "out of memory"}})
    sets = ("--set", "flow.retries=1", "--set", "flow.retry_delay_seconds=0")
    done = othink(project, "run", "--profile", "smoke", *CHANGE, *sets)
    assert done.returncode == 1
    assert done.stderr.count("train@sft-counting         failed") == 2


def test_a_step_that_takes_too_long_is_ended(project: Path) -> None:
    set_knobs(project, **{"train@sft-counting": {"seconds": 120}})
    done = othink(project, "run", "--profile", "smoke", *CHANGE, "--set", "flow.time_limit.train=0.05")
    assert done.returncode == 1
    assert "took longer than its time limit" in done.stderr.splitlines()[-1]
    assert (stages.read_status("train@sft-counting", project) or {})["state"] == "interrupted"


@dataclass
class Aftermath:
    """What is left of a run that was killed or stopped, and the run that came next, where one did."""

    project: Path
    step: processes.Process
    dvc: processes.Process
    code: int
    output: str
    left: list[int]
    following: "subprocess.CompletedProcess[str] | None" = None


VICTIMS = ("step", "dvc", "flow", "flow and dvc")
STOPS = (signal.SIGINT, signal.SIGTERM)


def after_a_kill(project: Path, victim: str) -> Aftermath:
    run, step = slow_run(project)
    dvc, flow = dvc_above(step), processes.find(run.pid)
    assert flow is not None
    victims = {"step": [step], "dvc": [dvc], "flow": [flow], "flow and dvc": [flow, dvc]}[victim]
    for process in victims:
        process.signal(signal.SIGKILL)
    output, _ = run.communicate(timeout=60)
    set_knobs(project, **{"train@sft-counting": {"seconds": 1}})
    following = othink(project, "run", "--profile", "smoke", "--json", *CHANGE)
    return Aftermath(project, step, dvc, run.returncode, output, working_in(project), following)


def after_a_stop(project: Path, number: signal.Signals) -> Aftermath:
    run, step = slow_run(project)
    dvc = dvc_above(step)
    run.send_signal(number)
    output, _ = run.communicate(timeout=60)
    return Aftermath(project, step, dvc, run.returncode, output, working_in(project))


@pytest.fixture(scope="module")
def ended(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str | signal.Signals, Future[Aftermath]]:
    """Runs that were killed or stopped, each in a project of its own, three at a time."""
    with ThreadPoolExecutor(3) as threads:
        found: dict[str | signal.Signals, Future[Aftermath]] = {}
        for victim in VICTIMS:
            found[victim] = threads.submit(after_a_kill, copied(finished[0], tmp_path_factory.mktemp("killed")), victim)
        for number in STOPS:
            found[number] = threads.submit(after_a_stop, copied(finished[0], tmp_path_factory.mktemp("stop")), number)
    return found


@pytest.mark.parametrize("victim", VICTIMS)
def test_after_a_kill_the_next_run_goes_on_and_nothing_runs_beside_it(
    ended: dict[str, Future[Aftermath]], victim: str
) -> None:
    found = ended[victim].result()
    assert found.code != 0
    assert not found.step.alive
    assert not found.dvc.alive
    assert found.following is not None
    assert outcomes(found.following)["train@sft-counting"] == "ran"
    log = (found.project / ".othink/logs/train@sft-counting.log").read_text()
    assert "train@sft-counting begins at 0 of" not in log  # it went on from its checkpoint
    assert found.left == []


@pytest.mark.parametrize("number", STOPS)
def test_a_stopped_run_lets_its_steps_save_and_leaves_nothing(
    ended: dict[signal.Signals, Future[Aftermath]], number: signal.Signals
) -> None:
    found = ended[number].result()
    assert found.code == 130, found.output
    assert found.output.splitlines()[-1] == "othink: interrupted"
    assert not found.step.alive
    assert (found.project / ".othink/checkpoints/train@sft-counting").exists()
    assert found.left == []


def test_a_second_run_is_told_of_the_first(project: Path) -> None:
    run, _ = slow_run(project)
    second = othink(project, "run", "--profile", "smoke")
    state = json.loads(othink(project, "status", "--json").stdout)
    run.terminate()
    run.communicate(timeout=60)
    assert second.returncode == 1
    assert f"another `othink run` (process {run.pid}) is at work" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert state["run"] == run.pid
    assert {step["name"]: step["state"] for step in state["steps"]}["train@sft-counting"] == "running"


def working_in(project: Path) -> list[int]:
    """The processes whose current folder lies in the project."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _inside(entry, project)]


def _inside(process: Path, project: Path) -> bool:
    try:
        return Path(os.readlink(process / "cwd")).is_relative_to(project)
    except OSError:
        return False
