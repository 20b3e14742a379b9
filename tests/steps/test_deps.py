"""Each stage declares the code its step is made of: no less, or an edit goes unseen; no more, or it trains anew."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from tests.steps.imports import PACKAGES, REPO, closure, is_empty_package

# steps/train.py imports the trainer of its method alone.
TRAINERS = {
    "sft": ("othink_mr1.sft",),
    "grpo": ("othink_mr1.grpo.config", "othink_mr1.grpo.trainer"),
    "grpo_d": ("othink_mr1.grpo.config", "othink_mr1.grpo.trainer"),
}


@cache
def stages() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Stage → its command and its code files."""
    repo = Repo(str(REPO))
    found = {}
    for stage in repo.index.stages:
        paths = [str(Path(dep.fs_path).relative_to(REPO)) for dep in stage.deps]
        code = [path for path in paths if path.split("/")[0] in PACKAGES]
        files = [file for path in code for file in expand(path)]
        found[stage.addressing] = (stage.cmd, tuple(files))
    repo.close()
    return found


def expand(path: str) -> list[str]:
    """A folder stands for the Python files in it."""
    if not (REPO / path).is_dir():
        return [path]
    return [str(file.relative_to(REPO)) for file in sorted((REPO / path).rglob("*.py"))]


def expected(command: str) -> set[str]:
    module = re.search(r"-m (\S+)", command)[1]
    method = re.search(r"--method (\S+)", command)
    if method is None:
        return closure(module)
    own = TRAINERS[method[1]]
    others = tuple(name for trainer in TRAINERS.values() for name in trainer if name not in own)
    return closure(module, without=others)


@pytest.mark.parametrize("name", sorted(stages()))
def test_a_stage_declares_the_code_of_its_step(name: str) -> None:
    command, files = stages()[name]
    declared = {file for file in files if not is_empty_package(file)}
    needed = expected(command)
    assert not needed - declared, f"{name}: add to its deps in dvc.yaml"
    assert not declared - needed, f"{name}: remove from its deps in dvc.yaml"


def test_every_stage_runs_a_step_of_this_project() -> None:
    for name, (command, _) in stages().items():
        assert re.fullmatch(r"python -m steps\.\w+( --\w+ [\w-]+)*", command), name


def test_training_does_not_depend_on_what_comes_after_it() -> None:
    for name, (_, files) in stages().items():
        if name.startswith("train@"):
            assert not [file for file in files if "evaluation" in file or "report" in file or "tracking" in file], name


def test_sft_does_not_depend_on_the_trainer_of_grpo() -> None:
    _, files = stages()["train@sft-counting"]
    assert not {"othink_mr1/grpo/trainer.py", "othink_mr1/grpo/loss.py", "othink_mr1/rewards.py"} & set(files)


def test_no_stage_reads_what_a_machine_decides() -> None:
    """`local` holds paths: a stage that named it would run again on every other machine."""
    text = (REPO / "dvc.yaml").read_text()
    assert "local" not in str(yaml.safe_load(text)["stages"])
