"""A step under its lock: what it leaves behind when it is stopped, killed, orphaned or called twice."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from othink_mr1 import processes, stages
from othink_mr1.errors import UserError
from steps import harness

REPO = Path(__file__).parent.parent.parent

STEP = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from othink_mr1.errors import UserError
    from steps import harness

    def main():
        seconds, mode = float(sys.argv[1]), sys.argv[2]
        with harness.stage("sleeper", checkpoints=mode == "checkpoints") as stage:
            for number in range(int(10 * seconds)):
                stage.progress(number + 1, int(10 * seconds), "sleeping")
                time.sleep(0.1)
                if mode == "checkpoints" and stage.stop_requested.is_set():
                    Path("checkpoint").write_text(str(number))
                    stage.raise_if_stopped()
            if mode == "mistake":
                raise UserError("rows.jsonl: row 3 is empty")
            if mode == "bug":
                raise KeyError("oh")

    harness.run_step(main)
    """
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OTHINK_OWNER", raising=False)
    (tmp_path / "step.py").write_text(STEP)
    return tmp_path


def start(folder: Path, seconds: float, mode: str = "plain", owner: str | None = None) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OTHINK_GRACE": "5"}
    if owner is not None:
        environment["OTHINK_OWNER"] = owner
    command = [sys.executable, "step.py", str(seconds), mode]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until_running(folder: Path, pid: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = status(folder)
        if found.get("pid") == pid and found["state"] == "running" and found["progress"]["done"]:
            return
        time.sleep(0.05)
    pytest.fail("the step never ran")


def status(folder: Path) -> dict[str, Any]:
    return stages.read_status("sleeper", folder) or {}


def test_a_step_that_ends_well_says_done(folder: Path) -> None:
    step = start(folder, 0.2)
    assert step.wait(30) == 0
    found = status(folder)
    assert found["state"] == "done"
    assert found["progress"] == {"done": 2, "total": 2, "what": "sleeping"}
    assert found["ended_at"] >= found["started_at"]


def test_a_users_mistake_is_one_line_and_exit_code_1(folder: Path) -> None:
    step = start(folder, 0, "mistake")
    _, errors = step.communicate(timeout=30)
    assert (step.returncode, errors) == (1, "rows.jsonl: row 3 is empty\n")
    assert (status(folder)["state"], status(folder)["message"]) == ("failed", "rows.jsonl: row 3 is empty")


def test_a_bug_keeps_its_traceback(folder: Path) -> None:
    step = start(folder, 0, "bug")
    _, errors = step.communicate(timeout=30)
    assert "Traceback" in errors
    assert (status(folder)["state"], status(folder)["message"]) == ("failed", "KeyError: 'oh'")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_step_without_checkpoints_ends_at_the_signal(folder: Path, number: signal.Signals) -> None:
    step = start(folder, 60)
    wait_until_running(folder, step.pid)
    step.send_signal(number)
    assert step.wait(10) == 128 + number
    assert status(folder)["state"] == "interrupted"


def test_a_step_with_checkpoints_saves_one_first(folder: Path) -> None:
    step = start(folder, 60, "checkpoints")
    wait_until_running(folder, step.pid)
    step.terminate()
    assert step.wait(10) == 128 + signal.SIGTERM
    assert (folder / "checkpoint").exists()
    assert status(folder)["state"] == "interrupted"


SLOW_TO_SAVE = STEP.replace('Path("checkpoint")', 'time.sleep(2); Path("checkpoint")')


def test_sigterm_again_is_the_same_request(folder: Path) -> None:
    (folder / "step.py").write_text(SLOW_TO_SAVE)
    step = start(folder, 60, "checkpoints")
    wait_until_running(folder, step.pid)
    step.send_signal(signal.SIGINT)  # from DVC's group,
    time.sleep(0.5)
    for _ in range(2):  # from the watchdog, and from the run that comes next
        step.terminate()
        time.sleep(0.2)
    assert step.wait(10) == 128 + signal.SIGINT
    assert (folder / "checkpoint").exists()


def test_a_second_ctrl_c_ends_a_step_at_once(folder: Path) -> None:
    (folder / "step.py").write_text(SLOW_TO_SAVE)
    step = start(folder, 60, "checkpoints")
    wait_until_running(folder, step.pid)
    for _ in range(2):
        step.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert step.wait(10) == 128 + signal.SIGINT
    assert not (folder / "checkpoint").exists()
    assert status(folder)["message"] == "ended at once by SIGINT"


def test_a_step_that_was_started_by_hand_outlives_its_shell(folder: Path) -> None:
    command = ["sh", "-c", f"{sys.executable} step.py 4 checkpoints >out 2>&1 & read line"]
    shell = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(REPO)}, stdin=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not status(folder).get("progress", {}).get("done") and time.monotonic() < deadline:
        time.sleep(0.05)
    shell.kill()
    shell.communicate()
    second = start(folder, 0.1)
    _, errors = second.communicate(timeout=30)
    assert f"already running as process {status(folder)['pid']}; wait until it ends" in errors
    while status(folder)["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status(folder)["state"] == "done", (folder / "out").read_text()


def test_a_killed_step_reads_as_interrupted_and_gives_its_lock_back(folder: Path) -> None:
    step = start(folder, 60)
    wait_until_running(folder, step.pid)
    step.kill()
    step.wait()
    assert json.loads(stages.status_path("sleeper", folder).read_text())["state"] == "running"
    assert status(folder)["state"] == "interrupted"
    assert start(folder, 0.1).wait(30) == 0


def test_a_second_step_is_refused_while_the_first_ones_owner_lives(folder: Path) -> None:
    first = start(folder, 60)
    wait_until_running(folder, first.pid)
    second = start(folder, 0.1)
    _, errors = second.communicate(timeout=30)
    first.kill()
    first.wait()
    assert second.returncode == 1
    assert f"already running as process {first.pid}" in errors
    assert len(errors.splitlines()) == 1


def test_a_step_ends_itself_when_its_owner_is_gone(folder: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    step = start(folder, 60, "checkpoints", owner=str(processes.find(owner.pid)))
    wait_until_running(folder, step.pid)
    owner.kill()
    owner.wait()
    assert step.wait(15) == 128 + signal.SIGTERM
    assert (folder / "checkpoint").exists()


def test_the_next_start_ends_an_orphan_that_does_not_end_itself(folder: Path) -> None:
    dead = "999999999:1"
    orphan = start(folder, 60, owner=dead)
    deadline = time.monotonic() + 30
    while stages.holder("sleeper", folder) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    orphan.send_signal(signal.SIGSTOP)  # it cannot follow any request
    following = start(folder, 0.1)
    _, errors = following.communicate(timeout=60)
    assert following.returncode == 0, errors
    assert orphan.wait(5) == -signal.SIGKILL


def test_a_pid_that_was_given_out_again_is_no_living_process(folder: Path) -> None:
    me = processes.current()
    assert me.alive
    assert not processes.Process(me.pid, "1").alive


def test_parameters_that_were_never_resolved_say_what_to_run(folder: Path) -> None:
    with pytest.raises(UserError, match=r"run `othink run` or `python -m steps\.resolve` first"):
        harness.params("seed")


def test_a_parameter_is_found_by_its_dotted_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "p.yaml").write_text("a: {b: 1.0e-6}\nlocal: {paths: {base: /models/x}}\n")
    monkeypatch.setenv("OTHINK_PARAMS", str(folder / "p.yaml"))
    assert harness.params("a.b") == 1e-6
    assert harness.local_path("base") == Path("/models/x")
    with pytest.raises(UserError, match=r"'a\.c' is not set"):
        harness.params("a.c")
    with pytest.raises(UserError, match="no path for 'data'"):
        harness.local_path("data")
