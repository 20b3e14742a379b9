"""From sources to splits: nothing is lost, and the same input gives the same files."""

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from makers import balance, digests, encoded, plain, png, row, split_rows, use_processes, write_jsonl

import othink_mr1.data.prepare as preparing
from othink_mr1.data import shards
from othink_mr1.data.checks import examine
from othink_mr1.data.prepare import Prepared, prepare
from othink_mr1.data.reading import decode, read_split
from othink_mr1.errors import UserError

SYNTHETIC = {"source": "synthetic", "rows": 12, "image_size": 64}
JSONL = {"source": "jsonl"}


def run(folder: Path, task: str = "counting", seed: int = 0, **settings: Any) -> Prepared:
    """Prepares into `folder`; a split given as a path is a jsonl source."""
    paths = {f"data.{task}.{split}": value for split, value in settings.items() if isinstance(value, Path)}
    defaults: dict[str, Any] = {"train": SYNTHETIC, "validation": {**SYNTHETIC, "rows": 4}, "test": SYNTHETIC}
    read = {split: JSONL if isinstance(value, Path) else value for split, value in settings.items()}
    folder.mkdir(exist_ok=True)
    return prepare(task, {**defaults, **read}, seed, paths, folder)


@pytest.mark.parametrize("task", ["counting", "geometry"])
def test_the_files_of_a_synthetic_task(tmp_path: Path, task: str) -> None:
    balance(run(tmp_path, task))
    assert set(digests(tmp_path)) == {
        *(f"{split}/00000-of-00001.parquet" for split in ("train", "validation", "test")),
        "quarantine.parquet",
        "provenance.json",
    }
    assert [len(read_split(tmp_path, split)) for split in ("train", "validation", "test")] == [12, 4, 12]
    assert read_split(tmp_path, "test").column("split") == ["test"] * 12


def test_the_same_input_gives_the_same_bytes_with_and_without_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "a")
    use_processes(monkeypatch)
    run(tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    run(tmp_path / "c", seed=1)
    assert digests(tmp_path / "a") != digests(tmp_path / "c")


def test_pictures_inside_a_file_come_out_as_they_went_in_with_and_without_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey, broken = encoded(plain(5).convert("L")), png(6)[:60]
    pictures = [*(png(number) for number in range(40)), grey, broken, None]
    table = {"image": pictures, "problem": ["How many?"] * 43, "answer": [3] * 43}
    (tmp_path / "source").mkdir()
    pq.write_table(pa.table(table), tmp_path / "source" / "rows.parquet")
    for name in ("here", "workers"):
        (tmp_path / name).mkdir()
        paths = {"data.counting.train": tmp_path / "source"}
        settings = {"train": {"source": "parquet"}, "validation": SYNTHETIC, "test": SYNTHETIC}
        balance(prepare("counting", settings, 0, paths, tmp_path / name))
        use_processes(monkeypatch)
    assert digests(tmp_path / "here") == digests(tmp_path / "workers")
    train = [one["image"]["bytes"] for one in split_rows(tmp_path / "workers", "train")]
    assert train[:40] == pictures[:40]
    assert decode(train[40]).tobytes() == plain(5).convert("L").convert("RGB").tobytes()
    quarantine = pq.read_table(tmp_path / "workers" / "quarantine.parquet").to_pylist()
    assert [(one["reason"], one["image"]["bytes"]) for one in quarantine] == [
        ("picture_truncated", broken),
        ("picture_missing", None),
    ]


def test_nothing_waits_in_the_folder_after_an_error_and_nothing_is_written_to_it_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int, what: str) -> None:
        raise RuntimeError("enough")

    def examine_slowly(*given: Any) -> Any:
        time.sleep(0.02)
        return examine(*given)

    use_processes(monkeypatch)
    monkeypatch.setattr(preparing, "examine", examine_slowly)  # the others are in the middle of their jobs
    (tmp_path / "out").mkdir()
    settings = {"train": {**SYNTHETIC, "rows": 400}, "validation": SYNTHETIC, "test": SYNTHETIC}
    with pytest.raises(RuntimeError, match="enough"):
        prepare("counting", settings, 0, {}, tmp_path / "out", stop)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "out" / "waiting").exists()


def test_a_split_has_the_same_bytes_whether_rows_had_to_leave_it_or_not(tmp_path: Path) -> None:
    rows = [row(number) for number in range(300)]
    for name, given in (("whole", rows), ("less", [*rows, row(7), row(7, ground_truth="many")])):
        (tmp_path / name).mkdir()
        run(tmp_path / f"out-{name}", train=write_jsonl(tmp_path / name, given))
    whole, less = (digests(tmp_path / f"out-{name}") for name in ("whole", "less"))
    assert whole["train/00000-of-00001.parquet"] == less["train/00000-of-00001.parquet"]
    assert whole["quarantine.parquet"] != less["quarantine.parquet"]


def test_a_row_more_changes_one_file_of_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_ROWS", 50)
    for name, count in (("before", 300), ("after", 301)):
        (tmp_path / name).mkdir()
        run(tmp_path / f"out-{name}", train=write_jsonl(tmp_path / name, [row(number) for number in range(count)]))
    before, after = (digests(tmp_path / f"out-{name}" / "train") for name in ("before", "after"))
    assert list(before) == list(after) == [f"{number:05d}-of-00008.parquet" for number in range(8)]
    assert sum(before[name] != after[name] for name in before) == 1
    ids = read_split(tmp_path / "out-after", "train").column("sample_id")
    assert len(set(ids)) == 301
    eighths = [int(one[0], 16) // 2 for one in ids]
    assert eighths == sorted(eighths)


def test_where_a_file_lies_makes_no_difference(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        run(tmp_path / f"out-{name}", train=write_jsonl(tmp_path / name, [row(number) for number in range(4)]))
    assert digests(tmp_path / "out-here") == digests(tmp_path / "out-there")
    assert str(tmp_path) not in (tmp_path / "out-here" / "provenance.json").read_text()


def test_bad_rows_are_put_aside_with_their_reason(tmp_path: Path) -> None:
    rows = [row(0), row(1, image_path="absent.png"), row(2, question=""), row(0), row(4)]
    prepared = run(tmp_path / "out", train=write_jsonl(tmp_path, rows))
    balance(prepared)
    quarantine = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert [(one["source"], one["reason"]) for one in quarantine] == [
        ("rows.jsonl:2", "picture_missing"),
        ("rows.jsonl:3", "question_missing"),
        ("rows.jsonl:4", "duplicate"),
    ]
    assert read_split(tmp_path / "out", "train").column("source") == ["rows.jsonl:1", "rows.jsonl:5"]


def test_nine_rows_still_give_a_validation_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, [row(number) for number in range(9)])
    prepared = run(tmp_path / "out", train=path, validation={"fraction": 0.05})
    balance(prepared)
    assert (prepared.splits["train"].rows, prepared.splits["validation"].rows) == (8, 1)
    drawn = read_split(tmp_path / "out", "validation")
    assert drawn.column("split") == ["validation"]
    assert not set(drawn.column("sample_id")) & set(read_split(tmp_path / "out", "train").column("sample_id"))


def test_the_drawn_validation_does_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = [row(number) for number in range(20)]
    for name, ordered in (("a", rows), ("b", rows[::-1])):
        (tmp_path / name).mkdir()
        run(tmp_path / f"out-{name}", train=write_jsonl(tmp_path / name, ordered), validation={"fraction": 0.3})
    drawn = [set(read_split(tmp_path / f"out-{name}", "validation").column("sample_id")) for name in "ab"]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 6


def test_rows_with_one_picture_stay_on_one_side(tmp_path: Path) -> None:
    rows = [row(number // 4, question=f"How many, {number}?") for number in range(24)]
    run(tmp_path / "out", train=write_jsonl(tmp_path, rows), validation={"fraction": 0.3})
    sides = [
        {picture.getpixel((0, 0)) for picture in read_split(tmp_path / "out", split).column("image")}
        for split in ("train", "validation")
    ]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_a_train_row_that_is_in_test_leaves_train(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    test = write_jsonl(tmp_path / "test", [row(2), row(50)])
    prepared = run(tmp_path / "out", train=write_jsonl(tmp_path, [row(number) for number in range(5)]), test=test)
    balance(prepared)
    assert dict(prepared.splits["train"].quarantined) == {"leaks_from_test": 1}
    assert prepared.splits["test"].rows == 2


def test_train_and_test_given_the_same_file_on_purpose(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, [row(number) for number in range(9)])
    same = {"source": "jsonl", "sha256": "digest of the file and its pictures"}
    paths = {"data.counting.train": path, "data.counting.test": path}
    (tmp_path / "out").mkdir()
    settings = {"train": same, "validation": {"fraction": 0.1}, "test": same}
    prepared = prepare("counting", settings, 0, paths, tmp_path / "out")
    assert [prepared.splits[split].rows for split in ("train", "validation", "test")] == [8, 1, 9]
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["splits"]["train"]["reported"] == {"leaks_from_test": 9}


def test_a_test_set_keeps_its_repeats_and_reports_them(tmp_path: Path) -> None:
    prepared = run(tmp_path / "out", test=write_jsonl(tmp_path, [row(0), row(0), row(1, ground_truth="many")]))
    assert prepared.splits["test"].rows == 3
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["splits"]["test"]["reported"] == {"answer_not_a_count": 1, "duplicate": 1}
    assert {one["source"] for one in provenance["splits"]["test"]["reported_rows"]} == {"rows.jsonl:2", "rows.jsonl:3"}


def test_few_shot_subsets_are_nested_and_keep_the_shares_of_the_answers(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, [row(number, ground_truth=1 if number < 30 else 2) for number in range(40)])
    chosen = {}
    for samples in (4, 8, 20, 500):
        prepared = run(tmp_path / f"out-{samples}", train=path, train_samples=samples)
        balance(prepared)
        chosen[samples] = read_split(tmp_path / f"out-{samples}", "train")
    assert [len(split) for split in chosen.values()] == [4, 8, 20, 40]
    ids = [set(split.column("sample_id")) for split in chosen.values()]
    assert ids[0] < ids[1] < ids[2] < ids[3]
    assert all(abs(split.column("answer").count("2") - len(split) / 4) < 1 for split in chosen.values())
    run(tmp_path / "other", train=path, train_samples=8, seed=1)
    assert set(read_split(tmp_path / "other", "train").column("sample_id")) != ids[1]


def test_few_shot_subsets_hold_rare_answers_too(tmp_path: Path) -> None:
    """Half of the rows have an answer that no other has: half of the subset, more or less, does as well."""
    path = write_jsonl(tmp_path, [row(number, ground_truth=number if number < 40 else 99) for number in range(80)])
    for seed in range(3):
        run(tmp_path / f"out-{seed}", train=path, train_samples=20, seed=seed)
        answers = read_split(tmp_path / f"out-{seed}", "train").column("answer")
        assert 5 <= answers.count("99") <= 15


def test_a_split_without_a_usable_row_is_an_error_that_shows_one(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, [row(0, image_path="absent.png")])
    with pytest.raises(UserError, match=r"data\.counting\.train: none of its 1 rows .*rows\.jsonl:1: picture_missing"):
        run(tmp_path / "out", train=path)


def test_one_row_cannot_be_both_train_and_validation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.counting\.validation: no row is left"):
        run(tmp_path / "out", train=write_jsonl(tmp_path, [row(0)]), validation={"fraction": 0.5})


def test_provenance_says_what_was_read_and_changed(tmp_path: Path) -> None:
    from makers import encoded
    from PIL import Image

    clear = encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 0)))
    run(tmp_path / "out", test=write_jsonl(tmp_path, [row(0), row(1, image_path=clear)]))
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    told = provenance["splits"]["test"]
    assert (told["read"], told["rows"], told["licence"]) == (2, 2, "unknown")
    assert told["changed"] == {"pictures encoded anew as RGB PNG": 1}
    assert provenance["splits"]["train"]["licence"] == "Apache-2.0"
    for name, digest in provenance["files"].items():
        assert digests(tmp_path / "out")[name] == digest
