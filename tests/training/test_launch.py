"""The train step in two processes: one status, one stop for all, and a clear word where one of them dies."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from othink_mr1 import processes, stages
from othink_mr1.config import write_selection
from othink_mr1.errors import UserError
from othink_mr1.training import launch

REPO = Path(__file__).parents[2]
STAGE = "train@grpo_d-counting"
TRAIN = [sys.executable, "-m", "steps.train", "--method", "grpo_d", "--task", "counting"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
SHAPE = {"processes": 8, "machines": 1, "mixed_precision": None, "strategy": "ddp", "deepspeed": None}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(REPO / "params.yaml", folder)
    shutil.copytree(REPO / "data_profiles", folder / "data_profiles")
    choose(folder, 2)
    for step in (["prepare_data", "--task", "counting"], ["base_model"]):
        command = [sys.executable, "-m", f"steps.{step[0]}", *step[1:]]
        subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True, timeout=120)
    return folder


def choose(folder: Path, count: int, machines: int = 1, steps: int = 200) -> None:
    options = [f"grpo.max_steps={steps}", f"grpo.eval_steps={steps // 2}", "grpo.save_steps=5"]
    options += [f"training.launch.processes={count}", f"training.launch.machines={machines}"]
    write_selection(folder, "smoke", options)
    resolve = [sys.executable, "-m", "steps.resolve"]
    subprocess.run(resolve, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True, timeout=60)


def status(folder: Path) -> dict[str, Any]:
    return stages.read_status(STAGE, folder) or {}


def started(folder: Path) -> subprocess.Popen[str]:
    """A training whose first steps are done."""
    stages.status_path(STAGE, folder).unlink(missing_ok=True)
    running = subprocess.Popen(
        TRAIN, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: status(folder).get("progress", {}).get("done", 0) >= 6 or running.poll() is not None)
    assert running.poll() is None, running.communicate()[0]
    return running


def wait_for(happens: Callable[[], Any], seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.1)


def ranks(running: subprocess.Popen[str]) -> list[processes.Process]:
    """The processes of a training, the first one first."""
    mine = []
    for entry in Path("/proc").iterdir():
        process = processes.find(int(entry.name)) if entry.name.isdigit() else None
        if process and any(above.pid == running.pid for above in processes.ancestors(process.pid)):
            environment = (entry / "environ").read_bytes().split(b"\0")
            if (rank := next((v for v in environment if v.startswith(b"RANK=")), None)) is not None:
                mine.append((int(rank[5:]), process))
    return [process for _, process in sorted(mine, key=lambda found: found[0])]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
def test_a_stop_a_death_and_another_number_of_processes(project: Path) -> None:
    running = started(project)
    both = ranks(running)
    assert len(both) == 2
    assert status(project)["pid"] == both[0].pid
    running.send_signal(signal.SIGTERM)
    told, _ = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM, told
    assert (status(project)["state"], status(project)["message"]) == ("interrupted", "interrupted by SIGTERM")
    assert not [process for process in both if process.alive]

    running = started(project)
    both = ranks(running)
    both[1].signal(signal.SIGKILL)
    told, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    expected = "process 1 of the training was ended by SIGKILL, and the others with it; the last whole checkpoint is"
    assert told.splitlines()[-1].startswith(expected)
    assert status(project)["state"] == "failed"
    assert status(project)["message"].startswith(expected)
    assert "going on from" in told
    assert not [process for process in both if process.alive]
    assert not (project / "models/grpo_d-counting").exists()

    choose(project, 1)
    running = started(project)
    running.send_signal(signal.SIGTERM)
    told, _ = running.communicate(timeout=60)
    assert "another run's checkpoints (processes: 2 before and 1 now" in told
    assert "going on from" not in told


@pytest.mark.slow
def test_two_machines_are_two_processes(project: Path) -> None:
    """Both on loopback, as two machines would be started that share the project's folder."""
    curves = project / "training" / "grpo_d-counting" / "curves.csv"
    choose(project, 2, steps=4)
    subprocess.run(TRAIN, cwd=project, env=ENVIRONMENT, check=True, capture_output=True, timeout=200)
    expected = curves.read_text()
    curves.unlink()
    choose(project, 1, machines=2, steps=4)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    meeting = {**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    output, text = subprocess.PIPE, subprocess.STDOUT
    both = [
        subprocess.Popen(TRAIN, cwd=project, env={**meeting, "NODE_RANK": rank}, stdout=output, stderr=text, text=True)
        for rank in "01"
    ]
    told = [machine.communicate(timeout=200)[0] for machine in both]
    assert [machine.returncode for machine in both] == [0, 0], told
    assert curves.read_text() == expected
    assert status(project)["state"] == "done"


def test_gpus_are_started_by_accelerate_and_the_cpu_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = launch.command(SHAPE, False, "steps.train", ["--task", "counting"])
    assert cpu[1:] == ["-m", "torch.distributed.run", "--nproc-per-node", "8", "--standalone", "-m", "steps.train",
                       "--task", "counting"]  # fmt: skip
    gpu = " ".join(launch.command(SHAPE, True, "steps.train", []))
    assert "accelerate.commands.launch --num_processes 8 " in gpu
    monkeypatch.delenv("NODE_RANK", raising=False)
    with pytest.raises(UserError, match=r"training\.launch\.machines is 2: MASTER_ADDR .* and NODE_RANK .*0 to 1"):
        launch.command({**SHAPE, "machines": 2}, True, "steps.train", [])
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    gpu = " ".join(launch.command({**SHAPE, "machines": 2}, True, "steps.train", []))
    assert "--num_processes 16 --mixed_precision no --num_machines 2" in gpu
    assert "--machine_rank 1 --main_process_ip 10.0.0.1 --main_process_port 29500" in gpu


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("NODE_RANK", "2", r"NODE_RANK .*from 0 to 1.*'10\.0\.0\.1' and '2'"),
        ("NODE_RANK", "one", r"NODE_RANK .*from 0 to 1.*'one'"),
        ("MASTER_ADDR", "", r"MASTER_ADDR .*found: ''"),
        ("MASTER_PORT", "http", r"MASTER_PORT is 'http'; it should be a port of 10\.0\.0\.1"),
        ("MASTER_PORT", "70000", "MASTER_PORT is '70000'"),
    ],
)
def test_where_machines_meet_is_told_before_any_starts(name: str, value: str, told: str, monkeypatch) -> None:
    for key, good in {"NODE_RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(key, value if key == name else good)
    with pytest.raises(UserError, match=told):
        launch.command({**SHAPE, "machines": 2}, False, "steps.train", [])


def test_deepspeed_that_is_not_there_is_told_before_any_starts(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"strategy is deepspeed, which is not installed.*pip install .*or take fsdp"):
        launch.command({**SHAPE, "strategy": "deepspeed"}, True, "steps.train", [])


def test_accelerate_knows_these_options() -> None:
    from accelerate.commands.launch import launch_command_parser

    words = launch.command(SHAPE, True, "steps.train", ["--task", "counting"])[3:]
    found = launch_command_parser().parse_args(words)
    assert (found.num_processes, found.num_machines, found.multi_gpu, found.module) == (8, 1, True, True)
    assert (found.training_script, found.training_script_args) == ("steps.train", ["--task", "counting"])


def test_the_process_that_was_killed_is_named_and_not_those_that_fell_with_it() -> None:
    text = "  rank      : 0 (local_rank: 0)\n  exitcode  : 1 (pid: 1)\n"
    text += "  rank      : 1 (local_rank: 1)\n  exitcode  : -9 (pid: 2)\n"
    assert launch.failure(text, 1).startswith("process 1 of the training was ended by SIGKILL")
    assert launch.failure("", 3).startswith("the training's launcher failed with exit code 3")
    assert json.dumps(launch.failure(text[:62], 1)).startswith('"process 0 of the training failed with exit code 1')
