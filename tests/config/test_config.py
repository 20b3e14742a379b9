"""What params.yaml, a profile and the command line come to, and what a mistake in them is told."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from othink_mr1 import config
from othink_mr1.errors import UserError
from othink_mr1.names import METHODS, STEP_KINDS, TASKS

REPO = Path(__file__).parent.parent.parent


def resolved(*overrides: str, profile: str | None = None) -> dict:
    return config.resolve(profile, overrides, REPO, absent_ok=True)


PROFILES = ("demo", "smoke", "paper-2b", "paper-7b")


def texts() -> list[str]:
    """What `resolve` writes for each profile."""
    return [yaml.safe_dump(resolved(profile=profile), sort_keys=False) for profile in PROFILES]


def test_every_profile_is_valid_and_changes_something() -> None:
    assert resolved() == resolved(profile="demo")
    assert len(set(texts())) == len(PROFILES)
    for profile in PROFILES:
        train = resolved(profile=profile)["train"]
        assert {(method, task) for method in train for task in train[method]} == {
            (m, t) for m in METHODS for t in TASKS
        }


def test_another_process_resolves_to_the_same_bytes() -> None:
    """Otherwise stages would run again for nothing: sets and hashes differ from one process to the next."""
    code = "from tests.config.test_config import texts; import json; print(json.dumps(texts()))"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ran = subprocess.run([sys.executable, "-c", code], cwd=REPO, env=environment, capture_output=True, check=True)
        assert json.loads(ran.stdout) == texts()


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
        ("data.counting.trian.rows=4", "unknown key 'data.counting.trian'; did you mean 'train'?"),
        ("data.counting.train.rosw=4", "did you mean 'rows'?"),
        ("grpo_d.beta_max=abc", "grpo_d.beta_max = 'abc' (task counting): should be a valid number"),
        ("grpo_d.beta_max=0.001", "beta_min = 0.04 should not be above beta_max = 0.001"),
        ("grpo.num_generations=1", "grpo.num_generations = 1 (task counting): should be greater than or equal to 2"),
        ("grpo.temperature=-1", "should be greater than 0"),
        ("threads=yes", "threads = True: should be a number"),
        ("threads=1.5", "threads = 1.5"),
        ("sft.max_steps=null", "max_steps or num_train_epochs"),
        ("data.counting.train_samples=9999999", "is more than train.rows"),
        ("data.counting.validation={fraction: 1.5}", "data.counting.validation.fraction = 1.5: should be less than 1"),
        ("data.counting.test={source: jsn}", "data.counting.test.source"),
        ("data.counting.test={source: jsonl}", "data.counting.test.path is not set"),
        ("reward.protocol=lenient", "should be 'strict' or 'r1v'"),
        ("promotion.method=ppo", "should be 'sft', 'grpo', 'grpo_d' or 'best'"),
        ("pools.trian=gpu", "pools: 'trian' is no step; allowed: prepare_data, base_model, train, evaluate, tables"),
        ("flow.time_limit.trian=5", "flow.time_limit: 'trian' is no step; allowed: prepare_data"),
        ("flow.time_limit.train=0", "flow.time_limit.train = 0: should be greater than 0"),
        ("data.countng={}", "unknown key 'data.countng'; did you mean 'counting'?"),
        ("data.counting.train.image_size=32", "image_size = 32: should be greater than or equal to 48"),
        ("base.image_size=32", "base.image_size = 32: should be greater than or equal to 48"),
        ("data.counting.checks.min_rows=0", "data.counting.checks.min_rows = 0"),
        ("data.counting.train={source: hub, name: x, columns: {imgae: y}}", "did you mean 'image'?"),
        ("data.counting.train={source: hub, name: ''}", "data.counting.train.name = ''"),
        ("sft.max_length=0", "sft.max_length = 0 (task counting): should be greater than or equal to 1"),
        ("reward.extra={short: 1}", "reward.extra: 'short' should be module:function"),
        ("reward.extra={a.b:c: many}", "reward.extra.a.b:c = 'many': should be a valid number"),
        ("reward.extra={othink_mr1.rewards:format_reward: 1}", "is there already"),
        ("reward.extra={mine:format_reward: 1}", "format_reward is the name of another reward or column"),
        ("reward.extra={mine:a: 1, yours:a: 1}", "a is the name of another reward or column"),
        ("reward.extra={mine:completion: 1}", "completion is the name of another reward or column"),
        ("grpo_d", "should be KEY=VALUE"),
        ("sft.learning_rate=[1", "not a YAML value"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(override: str, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        resolved(override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["sft.eval_steps=null"], "promotion.method = 'best' needs sft.eval_steps (it is null for counting)"),
        (["grpo.eval_steps.geometry=null"], "needs grpo.eval_steps (it is null for geometry)"),
        (["sft.eval_steps=9", "sft.max_steps=8"], "needs sft.eval_steps = 9 to be at most max_steps = 8"),
    ],
)
def test_the_best_method_needs_validation(overrides: list[str], told: str) -> None:
    resolved(*overrides)
    with pytest.raises(UserError, match=re.escape(told)):
        resolved("promotion.method=best", *overrides)


def test_a_step_has_a_time_limit_unless_it_is_given_another() -> None:
    assert set(config.load(REPO, overrides=["flow={retries: 1}"]).flow.time_limit) == set(STEP_KINDS)
    mended = config.load(REPO, overrides=["flow.time_limit={tables: 1}"]).flow.time_limit
    assert mended["tables"] == 1
    assert set(mended) == set(STEP_KINDS)


def test_a_reward_of_ones_own_stands_beside_those_of_the_paper() -> None:
    from othink_mr1.grpo.config import GRPODConfig

    plain = resolved("reward.alpha=0.25")["train"]["grpo"]["counting"]
    assert plain["reward_funcs"] == GRPODConfig.__dataclass_fields__["reward_funcs"].default_factory()
    assert plain["reward_weights"] == [1.0, 0.25]
    train = resolved("reward.extra={my_rewards:short: -0.5}")["train"]
    for task in TASKS:
        for method in ("grpo", "grpo_d"):
            assert train[method][task]["reward_funcs"] == [*plain["reward_funcs"], "my_rewards:short"]
            assert train[method][task]["reward_weights"] == [1.0, 1.0, -0.5]
        assert "reward_funcs" not in train["sft"][task]


@pytest.mark.parametrize("profile", PROFILES)
def test_trainers_take_every_setting_that_they_are_given(tmp_path: Path, profile: str) -> None:
    from othink_mr1.grpo.config import GRPODConfig
    from othink_mr1.sft import SFTConfig

    train = resolved("reward.extra={my_rewards:short: -0.5}", "sft.max_length=99", profile=profile)["train"]
    for method in METHODS:
        for task in TASKS:
            kind = SFTConfig if method == "sft" else GRPODConfig
            made = kind(output_dir=str(tmp_path), use_cpu=True, **train[method][task])
            assert made.learning_rate == train[method][task]["learning_rate"]


def test_the_longest_sequence_of_sft_can_be_set() -> None:
    assert "max_length" not in resolved()["train"]["sft"]["counting"]
    assert resolved("sft.max_length=99")["train"]["sft"]["geometry"]["max_length"] == 99
    assert resolved(profile="paper-2b")["train"]["sft"]["counting"]["max_length"] == 4096


@pytest.mark.parametrize(
    ("section", "value", "told"),
    [
        ("data", {}, "data: geometry is not set; every task of counting, geometry is needed"),
        ("profiles", ["a"], "profiles = ['a']: should hold a name and its settings for each profile"),
        ("profiles", {"smoke": 3}, "profiles.smoke = 3: should hold keys and values"),
        ("profiles", {"smoke": {"extends": ["x"]}}, "profiles.smoke.extends = ['x']: should be the name of one"),
        ("profiles", {"smoke": {"extends": "x"}}, "profile 'x' is unknown"),
        ("evaluation", {"max_new_tokens": {"counting": 48}, "batch_size": 1}, "max_new_tokens: geometry is not set"),
        (3, 4, "3 = 3: Keys should be strings"),
    ],
)
def test_a_section_of_the_wrong_shape_is_one_line(tmp_path: Path, section: Any, value: Any, told: str) -> None:
    written = yaml.safe_load((REPO / "params.yaml").read_text())
    if section == "data":
        value = {"counting": written["data"]["counting"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(written | {section: value}))
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        config.load(tmp_path, "smoke" if section == "profiles" else None)
    assert "\n" not in str(caught.value)


def test_a_dataset_of_the_hub_is_known_by_its_name_and_one_in_a_folder_by_its_content(tmp_path: Path) -> None:
    def train(*overrides: str) -> dict:
        return resolved("data.counting.train={source: hub, name: some/data}", *overrides)["data"]["counting"]["train"]

    by_name = {"source": "hub", "name": "some/data", "split": "train", "revision": None, "columns": {}}
    assert train() == {**by_name, "licence": None}
    assert train("data.counting.train.revision=abc") != train() != train("data.counting.train.split=val")
    (tmp_path / "train.parquet").write_bytes(b"rows")
    params = resolved(f"data.counting.train={{source: hub, name: {tmp_path}}}")
    assert params["local"]["paths"] == {"data.counting.train": str(tmp_path)}
    assert set(params["data"]["counting"]["train"]) == {"source", "split", "revision", "columns", "sha256", "licence"}


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
    assert set(params["data"]["counting"]["test"]) == {"source", "sha256", "licence"}
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


@pytest.mark.parametrize("profile", ["demo", "smoke", "paper-2b", "paper-7b"])
def test_no_parameter_has_a_name_that_dvcs_run_cache_leaves_out(profile: str) -> None:
    """DVC drops these keys wherever they stand: a stage whose `size` changed would get the outputs of the old one."""

    def keys(value: object) -> set[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        return set(value if isinstance(value, dict) else ()).union(*(keys(one) for one in inner))

    assert not keys(config.resolve(profile, [], REPO, absent_ok=True)) & {"size", "nfiles"}
