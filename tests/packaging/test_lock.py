"""requirements.lock is complete: whatever the project and its dependencies ask for is there, at one version each."""

import importlib.metadata
import platform
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
LOCKED = {canonicalize_name(Requirement(line).name): Requirement(line) for line in LINES}
# Built from source, for those who train with it.
NOT_LOCKED = {"deepspeed"}
PYTHONS = ("3.11.0", "3.11.9", "3.12.3", "3.13.1")


def locked_version(name: str) -> Version:
    (specifier,) = LOCKED[canonicalize_name(name)].specifier
    return Version(specifier.version)


def environment(python: str, extra: str = "") -> dict[str, str]:
    """What a marker sees on Linux under `python`."""
    return {
        **default_environment(),
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "linux",
        "platform_system": "Linux",
        "extra": extra,
    }


def applies(requirement: Requirement, python: str, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment(python, extra))


@pytest.mark.parametrize("line", LINES)
def test_every_line_pins_one_version_from_no_particular_place(line: str) -> None:
    requirement = Requirement(line)
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    assert requirement.url is None
    assert Version(specifier.version).local is None, "a local version such as +cpu exists on some machines only"


def test_no_host_is_named() -> None:
    assert not re.search(r"://|--(index|extra-index|find-links|trusted-host|hash)", "\n".join(LINES))
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_no_package_is_pinned_twice() -> None:
    assert len(LOCKED) == len(LINES)


@pytest.mark.parametrize(
    "extra", ["", *(extra for extra in PROJECT["optional-dependencies"] if extra not in NOT_LOCKED)]
)
def test_what_the_project_asks_for_is_locked(extra: str) -> None:
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    for text in wanted:
        requirement = Requirement(text)
        assert canonicalize_name(requirement.name) in LOCKED, f"{requirement.name} is not in requirements.lock"
        assert requirement.specifier.contains(locked_version(requirement.name)), text


@pytest.mark.parametrize("python", PYTHONS)
def test_what_locked_packages_ask_for_is_locked(python: str) -> None:
    """So the lock installs with --no-deps too. CUDA wheels of torch pin their own packages, on machines with a GPU."""
    missing = []
    for name, locked in LOCKED.items():
        if not applies(locked, python):
            continue
        try:
            asked = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            assert locked.marker, f"{name} is locked but not installed here: run make install"
            continue
        for text in asked:
            requirement = Requirement(text)
            if name == "torch" and re.match(r"nvidia-|cuda-|triton", requirement.name):
                continue
            if not applies(requirement, python):
                continue
            found = LOCKED.get(canonicalize_name(requirement.name))
            if found is None or not applies(found, python):
                missing.append(f"{name} asks for {text}")
            elif not requirement.specifier.contains(locked_version(requirement.name), prereleases=True):
                missing.append(f"{name} asks for {text}, locked is {found}")
    assert not missing


def test_what_is_installed_here_is_what_is_locked() -> None:
    different = {
        name: importlib.metadata.version(name)
        for name, locked in LOCKED.items()
        if applies(locked, platform.python_version())
        and Version(importlib.metadata.version(name)).public != locked_version(name).public
    }
    assert not different


def test_the_training_core_asks_for_nothing_of_the_pipeline() -> None:
    names = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert names == {"accelerate", "numpy", "peft", "pillow", "torch", "transformers"}
