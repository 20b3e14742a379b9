"""Profiles: how far is far, what chance gives, and a file of accepted ones that is broken."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from othink_mr1.data import profile
from othink_mr1.data.profile import Profile, drift
from othink_mr1.errors import UserError

TEN = np.full(10, 0.1)


def sample(rng: np.random.Generator, rows: int, shares: np.ndarray = TEN) -> Counter[str]:
    return Counter(str(value) for value in rng.choice(len(shares), rows, p=shares))


def test_the_distance_is_the_share_of_rows_that_would_need_another_value() -> None:
    found = drift({"1": 50, "2": 50}, 100, {"1": 30, "2": 50, "3": 20}, 100)
    assert found.distance == pytest.approx(0.2)
    assert found.example in (
        "'1': 30.0% of the rows, accepted were 50.0%",
        "values not among the accepted ones: 20.0% of the rows, accepted were 0.0%",
    )
    assert drift({"1": 5, "2": 5}, 10, {"1": 50, "2": 50}, 100).distance == 0


def test_values_that_a_profile_does_not_name_count_as_one() -> None:
    accepted = {"1": 60}  # of 100 rows: 40 have values that are too rare to be named
    assert drift(accepted, 100, {"1": 6, "a": 1, "b": 3}, 10).distance == pytest.approx(0)
    assert drift(accepted, 100, {"1": 10}, 10).distance == pytest.approx(0.4)


@pytest.mark.parametrize("rows", [16, 48, 400])
def test_chance_alone_raises_about_one_alarm_in_a_thousand(rows: int) -> None:
    rng = np.random.default_rng(7)
    accepted = sample(rng, 2000)
    alarms = 0
    for _ in range(200):
        found = drift(accepted, 2000, sample(rng, rows), rows)
        alarms += found.distance > found.chance
    assert alarms <= 3  # 0.2 are expected; 4 or more come about once in 20,000 times


def test_a_real_change_is_seen_in_a_few_hundred_rows() -> None:
    rng = np.random.default_rng(7)
    other = np.array([0.4, *np.full(9, 0.6 / 9)])
    found = drift(sample(rng, 2000), 2000, sample(rng, 400, other), 400)
    assert found.distance > max(0.1, found.chance)


def test_a_profile_counts_answers_and_sizes_by_octaves() -> None:
    frame = pd.DataFrame({"answer": ["3", "3", "7"], "width": [480, 512, 28], "height": [320, 511, 31]})
    found = profile.measure(frame, "jsonl my.jsonl")
    assert found.answers == {"3": 2, "7": 1}
    assert found.picture_sizes == {"256-511 x 256-511": 1, "512-1023 x 256-511": 1, "16-31 x 16-31": 1}


def test_a_source_goes_by_its_name_and_not_by_its_content() -> None:
    settings = {
        "train": {"source": "hub", "name": "owner/data", "split": "train", "revision": "abc", "licence": None},
        "validation": {"fraction": 0.1},
        "test": {"source": "jsonl", "sha256": "123", "licence": None},
    }
    name = {split: profile.source_name(settings, split, {"test": Path("/x/my.jsonl")}) for split in settings}
    assert name == {
        "train": "hub owner/data train",
        "validation": "drawn from hub owner/data train",
        "test": "jsonl my.jsonl",
    }
    demo, smoke = ({"train": {"source": "synthetic", "rows": n, "image_size": 128}} for n in (2000, 48))
    assert profile.source_name(demo, "train", {}) == profile.source_name(smoke, "train", {}) == "synthetic 128 px"


def test_accepting_keeps_the_profiles_of_other_sources(tmp_path: Path) -> None:
    path = tmp_path / "data_profiles" / "counting.json"
    mine = Profile("jsonl my.jsonl", 4, {"3": 4}, {"32-63 x 32-63": 4})
    other = Profile("synthetic 128 px", 2, {"1": 2}, {"64-127 x 64-127": 2})
    assert profile.accept(path, {"train": other}) == (True, {})
    assert profile.accept(path, {"train": mine}) == (True, {})
    first = path.read_bytes()
    assert profile.accept(path, {"train": mine}) == (False, {})
    assert path.read_bytes() == first
    assert set(profile.read_accepted(path)) == {("train", "synthetic 128 px"), ("train", "jsonl my.jsonl")}
    assert profile.read_accepted(path)["train", "jsonl my.jsonl"] == mine


def test_fewer_rows_spread_alike_do_not_replace_an_accepted_profile(tmp_path: Path) -> None:
    path = tmp_path / "counting.json"
    demo = Profile("synthetic 128 px", 2000, {"1": 1000, "2": 1000}, {"128-255 x 128-255": 2000})
    smoke = Profile("synthetic 128 px", 48, {"1": 26, "2": 22}, {"128-255 x 128-255": 48})
    profile.accept(path, {"train": demo})
    assert profile.accept(path, {"train": smoke}) == (False, {"train": demo})
    assert profile.read_accepted(path)["train", "synthetic 128 px"] == demo
    changed = Profile("synthetic 128 px", 48, {"1": 47, "2": 1}, {"128-255 x 128-255": 48})
    assert profile.accept(path, {"train": changed}) == (True, {})
    assert profile.accept(path, {"train": demo}) == (True, {})


def test_a_profile_names_the_commonest_values_alone(tmp_path: Path) -> None:
    many = {str(number): 1 + (number < 5) for number in range(1000)}
    profile.write(tmp_path / "profile.json", {"train": Profile("s", 1005, many, {"a": 1005})})
    read = profile.read(tmp_path / "profile.json")["train"]
    assert len(read.answers) == profile.MOST_VALUES
    assert [read.answers[str(number)] for number in range(5)] == [2] * 5


def test_without_a_file_nothing_is_accepted(tmp_path: Path) -> None:
    assert profile.read_accepted(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not a profile (Expecting property name"),
        ("[]", "version None of a profile, not 1"),
        ('{"version": 2, "splits": {}}', "version 2 of a profile, not 1"),
        ('{"version": 1, "splits": [1]}', "`splits` should hold a mapping"),
        ('{"version": 1, "splits": {"train": {"s": {"rows": 3}}}}', "the profile of 's' should hold rows"),
        (
            json.dumps(
                {"version": 1, "splits": {"train": {"s": {"rows": 1, "answers": {"a": 2}, "picture_sizes": {}}}}}
            ),
            "the profile of 's' should hold rows",
        ),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "counting.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        profile.read_accepted(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    with pytest.raises(UserError):
        profile.accept(path, {})
    assert path.read_text() == text
