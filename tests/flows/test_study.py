"""`othink study`: what it refuses, and where it keeps each seed's results."""

from pathlib import Path

import pytest

from flows.commands.study import study, study_folder
from othink_mr1.errors import UserError


@pytest.mark.parametrize(
    ("seeds", "overrides", "message"),
    [
        ("0,one", [], "--seeds '0,one': should be whole numbers"),
        ("", [], "--seeds '': should be whole numbers"),
        ("1,2,1", [], "a seed stands twice"),
        ("1,2", ["seed=3"], "--seeds says which seeds"),
    ],
)
def test_a_wrong_call_is_one_line_and_runs_nothing(seeds: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        study(seeds, "smoke", overrides)
    assert "\n" not in str(error.value)


def test_studies_of_other_settings_do_not_mix(tmp_path: Path) -> None:
    plain = study_folder(tmp_path, None, [])
    assert plain.name == "demo"
    folders = [plain, study_folder(tmp_path, "smoke", []), study_folder(tmp_path, None, ["grpo.max_steps=3"])]
    assert len(set(folders)) == 3
    assert study_folder(tmp_path, None, ["a=1", "b=2"]) == study_folder(tmp_path, None, ["b=2", "a=1"])
