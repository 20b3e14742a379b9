"""What params.yaml, a profile and the command line come to, and what a mistake in them is told."""

import re
from pathlib import Path

import pytest
import yaml

from othink_mr1 import config
from othink_mr1.errors import UserError

REPO = Path(__file__).parent.parent.parent


def resolved(*overrides: str, profile: str | None = None) -> dict:
    return config.resolve(profile, overrides, REPO, absent_ok=True)


@pytest.mark.parametrize("profile", [None, "demo", "smoke", "paper-2b", "paper-7b"])
def test_every_profile_is_valid_and_the_same_each_time(profile: str | None) -> None:
    assert resolved(profile=profile) == resolved(profile=profile)


def test_the_paper_profiles_hold_the_papers_values() -> None:
    small, large = resolved(profile="paper-2b"), resolved(profile="paper-7b")
    assert small["base"]["name"] == "Qwen/Qwen2-VL-2B-Instruct"
    assert large["base"]["name"] == "Qwen/Qwen2-VL-7B-Instruct"
    assert small["base"]["max_pixels"] == 401408
    assert (small["data"]["counting"]["train_samples"], large["data"]["counting"]["train_samples"]) == (100, 120)
    dynamic, constant, sft = (small["train"][method] for method in ("grpo_d", "grpo", "sft"))
    assert [dynamic[task]["beta_min"] for task in ("counting", "geometry")] == [0.04, 0.0]
    assert [dynamic[task]["beta_max"] for task in ("counting", "geometry")] == [0.1, 0.02]
    assert [constant[task]["beta_max"] for task in ("counting", "geometry")] == [0.04, 0.01]
    assert dynamic["counting"]["kl_exploration"] == 0.3
    assert dynamic["counting"]["num_generations"] == 8
    assert dynamic["counting"]["learning_rate"] == 1e-6
    assert dynamic["counting"]["max_completion_length"] == 256
    assert dynamic["counting"]["reward_protocol"] == "r1v"
    assert sft["counting"]["learning_rate"] == 2e-5
    assert sft["counting"]["warmup_steps"] == 0.1
    assert small["evaluation"]["max_new_tokens"] == {"counting": 256, "geometry": 1024}


def test_one_value_stands_for_both_tasks_and_one_task_can_have_its_own() -> None:
    both = resolved("grpo_d.beta_max=0.2")["train"]["grpo_d"]
    assert [both[task]["beta_max"] for task in ("counting", "geometry")] == [0.2, 0.2]
    one = resolved("grpo_d.beta_max.counting=0.2")["train"]["grpo_d"]
    assert [one[task]["beta_max"] for task in ("counting", "geometry")] == [0.2, 0.02]
    split = resolved("sft.learning_rate=0.5", "sft.learning_rate.geometry=0.25")["train"]["sft"]
    assert [split[task]["learning_rate"] for task in ("counting", "geometry")] == [0.5, 0.25]


def test_grpo_d_differs_from_grpo_in_the_kl_weight_alone() -> None:
    train = resolved("grpo.learning_rate=0.125", "grpo.num_generations=6")["train"]
    kl = {"kl_schedule", "beta_min", "beta_max", "kl_exploration"}
    for task in ("counting", "geometry"):
        ours, theirs = train["grpo_d"][task], train["grpo"][task]
        assert {k: v for k, v in ours.items() if k not in kl} == {k: v for k, v in theirs.items() if k not in kl}


def test_a_value_of_grpos_kl_weight_does_not_reach_grpo_d() -> None:
    before, after = resolved()["train"], resolved("grpo.beta_max=0.5")["train"]
    assert before["grpo"] != after["grpo"]
    assert before["grpo_d"] == after["grpo_d"]


@pytest.mark.parametrize("text", ["1e-6", "1E-6", "1.0e-6", "0.000001"])
def test_a_small_number_is_a_number_however_it_is_written(text: str) -> None:
    assert resolved(f"sft.learning_rate={text}")["train"]["sft"]["counting"]["learning_rate"] == 1e-6


def test_what_is_written_reads_back_equal_for_every_yaml_reader() -> None:
    params = resolved(profile="paper-2b")
    assert yaml.safe_load(yaml.safe_dump(params)) == params


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("grpo_d.beta_mx=1", "unknown key 'grpo_d.beta_mx'; did you mean 'beta_max'?"),
        ("grpodd.beta_max=1", "unknown key 'grpodd'"),
        ("data.counting.trian.size=4", "unknown key 'data.counting.trian'; did you mean 'train'?"),
        ("data.counting.train.sise=4", "did you mean 'size'?"),
        ("grpo_d.beta_max=abc", "grpo_d.beta_max = 'abc' (task counting): should be a valid number"),
        ("grpo_d.beta_max=0.001", "beta_min = 0.04 should not be above beta_max = 0.001"),
        ("grpo.num_generations=1", "grpo.num_generations = 1 (task counting): should be greater than or equal to 2"),
        ("grpo.temperature=-1", "should be greater than 0"),
        ("threads=yes", "threads = True: should be a number"),
        ("threads=1.5", "threads = 1.5"),
        ("sft.max_steps=null", "max_steps or num_train_epochs"),
        ("data.counting.train_samples=9999999", "is more than train.size"),
        ("data.counting.validation={fraction: 1.5}", "data.counting.validation.fraction = 1.5: should be less than 1"),
        ("data.counting.test={source: jsn}", "data.counting.test.source"),
        ("data.counting.test={source: jsonl}", "data.counting.test.path is not set"),
        ("reward.protocol=lenient", "should be 'strict' or 'r1v'"),
        ("promotion.method=ppo", "should be 'sft', 'grpo', 'grpo_d' or 'best'"),
        ("grpo_d", "should be KEY=VALUE"),
        ("sft.learning_rate=[1", "not a YAML value"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(override: str, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        resolved(override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "there is no such file"),
        ("a: [1\n", "line 2"),
        ("- 1\n", "should hold keys and values"),
        ("seed: 1\nseed: 2\n", "line 2: key 'seed' stands there twice"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        config.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"profile 'smok' is unknown; did you mean 'smoke'\?.*paper-7b"):
        config.load(REPO, "smok")


def test_another_source_brings_its_own_keys(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    path = f"data.counting.test.path={tmp_path / 'rows.jsonl'}"
    params = resolved("data.counting.test.source=jsonl", path)
    assert set(params["data"]["counting"]["test"]) == {"source", "sha256"}
    assert params["local"]["paths"] == {"data.counting.test": str(tmp_path / "rows.jsonl")}


def test_a_source_is_known_by_its_content_and_its_pictures_not_by_its_place(tmp_path: Path) -> None:
    def digest(folder: str, row: str, picture: bytes) -> str:
        place = tmp_path / folder
        place.mkdir()
        (place / "rows.jsonl").write_text(row)
        (place / "one.png").write_bytes(picture)
        chosen = f"data.counting.test={{source: jsonl, path: {place / 'rows.jsonl'}}}"
        return str(resolved(chosen)["data"]["counting"]["test"]["sha256"])

    row = '{"image_path": "one.png", "question": "?", "ground_truth": 1}\n'
    first = digest("a", row, b"picture")
    assert digest("b", row, b"picture") == first
    assert digest("c", row, b"another") != first
    assert digest("d", row.replace("1}", "2}"), b"picture") != first


def test_a_missing_source_stops_a_run_but_not_a_plan() -> None:
    chosen = ["data.counting.test={source: jsonl, path: nowhere.jsonl}"]
    with pytest.raises(UserError, match=r"data\.counting\.test\.path: .*nowhere\.jsonl cannot be read"):
        config.resolve(None, chosen, REPO)
    assert config.resolve(None, chosen, REPO, absent_ok=True)["data"]["counting"]["test"]["sha256"] == "absent"


def test_the_selection_is_remembered(tmp_path: Path) -> None:
    assert config.read_selection(tmp_path) == (None, [])
    config.write_selection(tmp_path, "smoke", ["seed=1"])
    assert config.read_selection(tmp_path) == ("smoke", ["seed=1"])
