"""Datasets in the hub's form: real ones, in folders, read by the real `datasets`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from huggingface_hub import constants
from makers import plain, png

from othink_mr1 import config
from othink_mr1.data.checks import RawRow
from othink_mr1.data.prepare import prepare
from othink_mr1.data.reading import read_split
from othink_mr1.data.sources import Request, Source, open_source
from othink_mr1.data.sources.hub import _COLUMNS
from othink_mr1.errors import UserError

ROOT = Path(__file__).parents[2]
R1V = {"image": datasets.Image(), "problem": datasets.Value("string"), "solution": datasets.Value("string")}
# As the dataset's page has it: splits and their files, beside a head that names the licence.
CARD = """---
license: apache-2.0
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: val, path: data/val-*}
---
# Pictures to count in
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def rows(count: int, start: int = 0) -> dict[str, list[Any]]:
    numbers = range(start, start + count)
    return {
        "image": [plain(number) for number in numbers],
        "problem": ["How many items are there in the image?"] * count,
        "solution": [f"<answer> {number % 9} </answer>" for number in numbers],
    }


def dataset(folder: Path, train: dict[str, list[Any]], features: dict[str, Any] = R1V) -> Path:
    """A folder as the hub has it: parquet files of two splits, and a card."""
    (folder / "data").mkdir(parents=True)
    for split, values in (("train", train), ("val", {name: column[:1] for name, column in train.items()})):
        made = datasets.Dataset.from_dict(values, features=datasets.Features(features))
        made.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    (folder / "README.md").write_text(CARD)
    return folder


def opened(folder: Path, **settings: Any) -> Source:
    return open_source(Request("counting", "train", {"source": "hub", "sha256": "abc", **settings}, 0, folder))


def read(folder: Path, **settings: Any) -> list[RawRow]:
    source = opened(folder, **settings)
    found = [row for job in source.jobs for row in job()]
    assert len(found) == source.rows
    return found


def test_the_columns_of_r1vs_datasets(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "clevr", rows(3))
    found = read(folder)
    assert [one.source for one in found] == ["clevr:0", "clevr:1", "clevr:2"]
    assert found[2].problem == "How many items are there in the image?"
    assert (found[2].solution, found[2].answer, found[2].thinking) == ("<answer> 2 </answer>", None, None)
    assert found[2].picture == png(2)
    assert len(read(folder, split="val")) == 1


def test_thinking_is_taken_where_there_is_some(tmp_path: Path) -> None:
    values = {**rows(2), "thinking": ["<think> 1 2 </think>", "<think> 1 </think>"]}
    folder = dataset(tmp_path / "thinking", values, {**R1V, "thinking": datasets.Value("string")})
    assert [one.thinking for one in read(folder)] == values["thinking"]


def test_columns_of_other_names(tmp_path: Path) -> None:
    names = {"image": "picture", "problem": "query", "answer": "label"}
    values = {"picture": [plain(4)], "query": ["How many?"], "label": [7]}
    kinds = {"picture": datasets.Image(), "query": datasets.Value("string"), "label": datasets.Value("int64")}
    (only,) = read(dataset(tmp_path / "other", values, kinds), columns=names)
    assert (only.problem, only.answer, only.picture) == ("How many?", 7, png(4))


def refused(folder: Path | None, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_source(Request("counting", "train", {"source": "hub", **settings}, 0, folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dataset(tmp_path / "clevr", rows(2))
    assert "Unknown split" in refused(folder, split="dev")
    assert refused(folder, columns={"problem": "question"}).endswith(
        "has no column 'question' (it has image, problem, solution); say which is ours: "
        "data.counting.train.columns={problem: <its name>}"
    )
    kinds = {name: R1V[name] for name in ("image", "problem")}
    short = dataset(tmp_path / "short", {name: rows(2)[name] for name in kinds}, kinds)
    assert "has no column 'solution'" in refused(short)
    monkeypatch.setitem(_COLUMNS, str(folder), ("image", "problem", "solution", "thinking"))
    assert "has no column 'thinking'" in refused(folder)
    assert "cannot be loaded" in refused(tmp_path / "absent")


def test_a_row_names_no_picture_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    pictures = [{"bytes": None, "path": str(tmp_path / "secret.png")}, {"bytes": None, "path": None}]
    values = {**rows(2), "image": pictures}
    plain_kinds = {**R1V, "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    folder = dataset(tmp_path / "hostile", values, plain_kinds)
    assert [one.failure and one.failure[0] for one in read(folder)] == ["picture_outside", "picture_missing"]


def test_a_row_names_no_picture_but_those_that_were_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, downloads = tmp_path / "home", tmp_path / "home" / "datasets" / "downloads"
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", downloads)
    repository = home / "hub" / "datasets--owner--clevr"
    for folder in (repository / "blobs", repository / "snapshots" / "abc", downloads):
        folder.mkdir(parents=True)
    (home / "token").write_bytes(png())  # a picture, so that nothing but its place speaks against it
    (repository / "blobs" / "0123").write_bytes(png(1))
    (repository / "snapshots" / "abc" / "1.png").symlink_to("../../blobs/0123")
    (repository / "snapshots" / "abc" / "2.png").symlink_to(home / "token")
    (downloads / "3").write_bytes(png(3))
    fetched = [repository / "snapshots" / "abc" / "1.png", downloads / "3"]
    outside = [home / "token", "token", "../token", downloads / ".." / ".." / "token", fetched[0].with_name("2.png")]
    missing = [downloads / "absent.png", "a\0b.png"]
    names = [str(name) for name in (*fetched, *outside, *missing)]
    values = {**rows(len(names)), "image": [{"bytes": None, "path": name} for name in names]}
    paths = {**R1V, "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    dataset(tmp_path / "owner" / "clevr", values, paths)
    monkeypatch.chdir(tmp_path)  # see the last test
    source = open_source(Request("counting", "train", {"source": "hub", "name": "owner/clevr"}, 0))
    found = [row for job in source.jobs for row in job()]
    assert [one.picture for one in found[:2]] == [png(1), png(3)]
    told = [one.failure and one.failure[0] for one in found[2:]]
    assert told == ["picture_outside"] * len(outside) + ["picture_missing"] * len(missing)


def test_from_a_dataset_to_splits_and_none_is_lost(tmp_path: Path) -> None:
    values = rows(300)
    values["solution"][7] = "<answer> many </answer>"
    folder, out = dataset(tmp_path / "clevr", values), tmp_path / "out"
    out.mkdir()
    same = {"source": "hub", "split": "train", "revision": None, "sha256": "abc"}
    settings = {"train": same, "validation": {"fraction": 0.1}, "test": {"source": "synthetic", "rows": 2}}
    prepared = prepare("counting", settings, 0, {"data.counting.train": folder}, out)
    assert dict(prepared.splits["train"].quarantined) == {"answer_not_a_count": 1}
    assert [len(read_split(out, split)) for split in ("train", "validation", "test")] == [269, 30, 2]
    assert read_split(out, "train")[0]["image"].size == (40, 32)


def test_the_same_dataset_for_train_and_test_on_purpose_stays_and_another_split_leaks(tmp_path: Path) -> None:
    folder, out = dataset(tmp_path / "clevr", rows(4)), tmp_path / "out"
    out.mkdir()
    same = {"source": "hub", "split": "train", "sha256": "abc"}
    paths = {f"data.counting.{split}": folder for split in ("train", "validation", "test")}
    settings = {"train": same, "validation": {**same, "split": "val"}, "test": same}
    with pytest.raises(UserError, match=r"data\.counting\.validation: none of its 1 rows .*leaks_from_test"):
        prepare("counting", settings, 0, paths, out)
    settings["validation"] = {"fraction": 0.25}
    prepared = prepare("counting", settings, 0, paths, out)
    assert [prepared.splits[split].rows for split in ("train", "validation", "test")] == [3, 1, 4]


def step(project: Path, train: str) -> subprocess.CompletedProcess[str]:
    """`prepare_data`, with what `resolve` makes of this training set, on a machine without a network."""
    overrides = [f"data.counting.train={train}", *(f"data.counting.{split}.rows=2" for split in ("validation", "test"))]
    (project / ".othink").mkdir(exist_ok=True)
    resolved = config.resolve("smoke", overrides, ROOT)
    (project / ".othink" / "params.yaml").write_text(yaml.safe_dump(resolved))
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(project / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "steps.prepare_data", "--task", "counting"]
    return subprocess.run(command, cwd=project, env={**os.environ, **offline}, capture_output=True, text=True)


def test_without_a_network_it_is_one_line_that_says_what_would_work(tmp_path: Path) -> None:
    ran = step(tmp_path, "{source: hub, name: leonardPKU/clevr_cogen_a_train}")
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("data.counting.train: the dataset leonardPKU/clevr_cogen_a_train cannot be loaded")
    assert "HF_HOME" in line
    assert "source: jsonl" in line


@pytest.mark.slow
def test_a_folder_goes_the_whole_way_from_params_yaml(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "clevr", rows(5))
    ran = step(tmp_path, f"{{source: hub, name: {folder}, licence: MIT}}")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(read_split(tmp_path / "data" / "counting", "train")) == 5


def test_a_dataset_without_a_revision_is_told_to_be_unrepeatable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder stands in for the hub: `datasets` takes one of that name in the working directory."""
    dataset(tmp_path / "owner" / "clevr", rows(2))
    monkeypatch.chdir(tmp_path)
    by_name = {"source": "hub", "name": "owner/clevr", "split": "train"}
    source = open_source(Request("counting", "train", by_name, 0))
    assert capsys.readouterr().err.startswith("data.counting.train: warning: owner/clevr without a revision")
    assert (source.rows, source.digest) == (2, None)
    open_source(Request("counting", "train", {**by_name, "revision": "main"}, 0))
    assert capsys.readouterr().err == ""
