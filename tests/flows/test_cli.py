"""The othink command: its plan, and what a mistake in calling it is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.conftest import REPO, othink, othink_command, othink_environment


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()


def test_a_plan_says_what_would_run_and_writes_nothing(project: Path) -> None:
    def tree() -> set[str]:
        return {
            str(path) for path in project.rglob("*") if "__pycache__" not in path.parts and ".dvc" not in path.parts
        }

    before = tree()
    done = othink(project, "run", "--plan", "--profile", "smoke", "--json")
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)["steps"]
    assert {step["action"] for step in steps} == {"run"}
    assert tree() == before


def test_a_plan_can_be_made_without_the_papers_data(project: Path) -> None:
    done = othink(project, "run", "--plan", "--profile", "paper-7b")
    assert done.returncode == 0, done.stderr
    assert "superclevr" in done.stderr


def test_status_of_a_fresh_clone(project: Path) -> None:
    done = othink(project, "status", "--json")
    assert {step["state"] for step in json.loads(done.stdout)["steps"]} == {"never ran"}


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (["run", "--profile", "smok"], "profile 'smok' is unknown; did you mean 'smoke'?", 1),
        (["run", "--set", "grpo_d.beta_mx=1"], "unknown key 'grpo_d.beta_mx'; did you mean 'beta_max'?", 1),
        (["run", "--set", "threads=many"], "threads = 'many'", 1),
        (["run", "--only", "trian"], "step 'trian' is unknown; did you mean 'train'?", 2),
        (["run", "--plan", "--from", "nowhere"], "step 'nowhere' is unknown", 2),
        (["run", "--only", "tables"], "which is missing: run `othink run --from", 1),
        (
            ["run", "--set", "data.counting.test={source: jsonl, path: no.jsonl}"],
            "data.counting.test.path: ",
            1,
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(project: Path, arguments: list[str], told: str, code: int) -> None:
    done = othink(project, *arguments)
    assert len(lines(done)) == 1
    assert told in done.stderr
    assert done.returncode == code


def test_an_unknown_option_is_a_wrong_call(project: Path) -> None:
    assert othink(project, "run", "--frm", "tables").returncode == 2


def test_outside_the_project_it_says_so(project: Path, tmp_path: Path) -> None:
    done = othink(project, "status", folder=tmp_path)
    assert lines(done) == [
        f"othink: {tmp_path}: not inside the project (no folder here or above holds dvc.yaml and steps/resolve.py)"
    ]
    assert done.returncode == 1


@pytest.mark.parametrize("text", [None, "a: [\n"])
def test_params_yaml_that_cannot_be_read_is_one_line(project: Path, text: str | None) -> None:
    (project / "params.yaml").unlink()
    if text is not None:
        (project / "params.yaml").write_text(text)
    done = othink(project, "run")
    assert len(lines(done)) == 1
    assert "params.yaml" in done.stderr
    assert done.returncode == 1


def test_a_server_that_is_down_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    done = othink(project, "run", "--profile", "smoke", "--only", "resolve")
    assert done.returncode == 1
    assert lines(done)[-1] == "othink: PREFECT_API_URL: http://127.0.0.1:9/api does not answer (ConnectError)"
    assert not (project / ".othink/params.yaml").exists()


def test_without_a_repository_it_says_so(project: Path) -> None:
    subprocess.run(["rm", "-rf", ".git"], cwd=project, check=True)
    done = subprocess.run(
        othink_command("run"),
        cwd=project,
        env={**othink_environment(project), "GIT_CEILING_DIRECTORIES": str(project.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(lines(done)) == 1
    assert "not a git repository" in done.stderr


def test_without_git_it_says_so(project: Path) -> None:
    done = subprocess.run(
        othink_command("run"),
        cwd=project,
        env={**othink_environment(project), "PATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "git is missing" in lines(done)[0]


def test_a_full_disk_is_one_line(project: Path) -> None:
    code = (
        "import errno, steps.harness as harness\n"
        "def main(): raise OSError(errno.ENOSPC, 'No space left', 'x.bin')\n"
        "harness.run_step(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=os.environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, lines(done)) == (1, ["the disk is full (x.bin): free some space and run again"])


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom flows.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'prefect', 'mlflow', 'dvc', 'pydantic', 'yaml', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


@pytest.mark.parametrize(
    "command",
    [
        *("run", "status", "report", "models", "promote", "rollback", "predict", "merge", "score", "ui", "data"),
        *("data show", "data diff", "data quarantine", "data accept"),
    ],
)
def test_every_command_has_a_help(command: str) -> None:
    done = subprocess.run(
        othink_command(*command.split(), "--help"),
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0
    assert len(done.stdout) > 100
