"""The README names what exists: files, make targets, commands, options, links."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from othink_mr1 import config

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
OTHINK = sorted({command for command in COMMANDS if command.startswith("othink ")})
ROOMS = ("flows", "steps", "othink_mr1")


def tree_paths() -> list[str]:
    """The paths in the README's file tree; a line's indent says which folder it is in."""
    block = re.search(r"<!-- tree -->\n```\n(.*?)```\n<!-- /tree -->", README, flags=re.DOTALL)
    assert block, "README.md has no file tree between its marks"
    paths: list[str] = []
    parents: list[str] = []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, phrase = line.strip().partition(" ")
        assert phrase.strip(), f"no phrase says what {name} is"
        parents[depth:] = [name]
        paths.append("".join(parents))
    return paths


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.splitlines() if (ROOT / name).exists()}


@cache
def help_of(*command: str) -> str:
    othink = str(Path(sys.executable).with_name("othink"))
    result = subprocess.run([othink, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"othink {command}: {result.stderr}"
    return re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)


def test_every_path_in_the_tree_exists() -> None:
    assert not [path for path in tree_paths() if not (ROOT / path).exists()]


def test_the_tree_holds_every_file_of_the_rooms_and_of_the_top() -> None:
    named = {path.rstrip("/") for path in tree_paths()}
    wanted = set()
    for name in tracked():
        parts = Path(name).parts
        if parts[-1] == "__init__.py" or parts[0].startswith("."):
            continue
        if len(parts) == 1 or parts[0] not in ROOMS:
            wanted.add(parts[0])
        else:
            wanted.add("/".join(parts[:2]))
    assert not wanted - named - {"README.md", "LICENSE", "dvc.lock"}


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?://)([^)#]+)\)", README))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_every_make_target_exists(command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("command", OTHINK)
def test_every_command_and_option_exists(command: str) -> None:
    words = command.split()
    text = help_of(*words[1 : 3 if words[1] == "data" else 2])
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"{command}: {option}"


@pytest.mark.parametrize("command", [command for command in OTHINK if "--set" in command])
def test_every_setting_is_one_that_params_yaml_may_have(command: str) -> None:
    words = shlex.split(command)
    settings = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    config.resolve(None, settings, ROOT, absent_ok=True)


def test_every_profile_exists() -> None:
    profiles = yaml.safe_load((ROOT / "params.yaml").read_text())["profiles"]
    for name in re.findall(r"--profile (\S+)", README):
        assert name in profiles


def test_the_readme_says_that_the_demo_was_made_improvable() -> None:
    assert "made improvable" in README
