"""Whose Prefect server a run uses."""

import os
from pathlib import Path

import pytest

from flows.project import prepare_prefect

EPHEMERAL = 'active = "mine"\n[profiles.mine]\nPREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"\n'
NAMED = '[profiles.mine]\nPREFECT_API_URL = "http://prefect.example/api"\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and an environment that says nothing of Prefect; what is set is taken back."""
    folder = tmp_path / "home"
    (folder / ".prefect").mkdir(parents=True)
    others = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    monkeypatch.setattr(os, "environ", {**others, "HOME": str(folder)})
    return folder


def write(home: Path, text: str) -> None:
    (home / ".prefect" / "profiles.toml").write_text(text)


def test_without_any_setting_the_run_has_its_own_server(home: Path, tmp_path: Path) -> None:
    assert prepare_prefect(tmp_path)
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".othink" / "prefect")


@pytest.mark.parametrize("text", [EPHEMERAL, 'active = "other"\n' + NAMED, "[broken", NAMED])
def test_a_profile_that_names_no_server_does_not_count_as_one(home: Path, tmp_path: Path, text: str) -> None:
    write(home, text)
    assert prepare_prefect(tmp_path)
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".othink" / "prefect")
    assert os.environ["PREFECT_PROFILES_PATH"] == str(home / ".prefect" / "profiles.toml"), "its settings hold still"


def test_the_active_profiles_server_is_used(home: Path, tmp_path: Path) -> None:
    write(home, 'active = "mine"\n' + NAMED)
    assert not prepare_prefect(tmp_path)
    assert "PREFECT_HOME" not in os.environ


def test_the_profile_that_the_environment_names_is_the_active_one(home: Path, tmp_path: Path) -> None:
    write(home, 'active = "other"\n' + NAMED)
    os.environ["PREFECT_PROFILE"] = "mine"
    assert not prepare_prefect(tmp_path)
    os.environ["PREFECT_PROFILE"] = "other"
    assert prepare_prefect(tmp_path)


def test_an_address_in_the_environment_is_used(home: Path, tmp_path: Path) -> None:
    os.environ["PREFECT_API_URL"] = "http://prefect.example/api"
    assert not prepare_prefect(tmp_path)
