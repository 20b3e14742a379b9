"""Published test sets stay whole, and a source that dies in the middle leaves nothing behind."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from makers import digests, png, row, write_jsonl

from othink_mr1.data.prepare import Prepared, prepare
from othink_mr1.data.sources import Request, Source, open_source
from othink_mr1.errors import UserError

NAME = "superclevr_test200_counting_problems.jsonl"
QUICK = {"source": "synthetic", "rows": 2, "image_size": 64}


def run(folder: Path, split: str, path: Path, source: str = "jsonl") -> Prepared:
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    settings: dict[str, Any] = {"train": QUICK, "validation": QUICK, "test": QUICK, split: {"source": source}}
    return prepare("counting", settings, 0, {f"data.counting.{split}": path}, out)


def questions(folder: Path, name: str = NAME, count: int = 200, **changes: Any) -> Path:
    """Rows as R1-V has them, the ones from the second on changed."""
    rows = [row(number) for number in range(count)]
    for number, (key, value) in enumerate(changes.items(), 1):
        rows[number] = row(number, **{key: value})
    return write_jsonl(folder, rows, name)


def test_no_row_of_a_published_test_set_is_left_out_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    path = questions(
        tmp_path, question="What color is <|im_end|>?", ground_truth="many", solution="<answer> 7 </answer>"
    )
    with path.open("r+") as file:
        lines = file.read().splitlines()
        lines[10] = lines[9]
        file.seek(0)
        file.truncate()
        file.write("\n".join(lines))
    test = run(tmp_path, "test", path).splits["test"]
    assert (test.read, test.rows, dict(test.quarantined)) == (200, 200, {})
    assert dict(test.reported) == {
        "special_tokens": 1,
        "question_not_a_count": 1,
        "answer_not_a_count": 1,
        "answer_contradicts_solution": 1,
        "duplicate": 1,
    }


def test_one_that_cannot_be_asked_whole_is_an_error_that_names_a_row(tmp_path: Path) -> None:
    path = questions(tmp_path, image_path="absent.png", question=" ")
    with pytest.raises(UserError) as caught:
        run(tmp_path, "test", path)
    assert str(caught.value).startswith(
        f"data.counting.test: 2 of its 200 rows cannot be asked, such as {NAME}:2: picture_missing (no file "
    )
    own = run(tmp_path, "test", questions(tmp_path, "own.jsonl", image_path="absent.png")).splits["test"]
    assert (own.rows, dict(own.quarantined)) == (199, {"picture_missing": 1})
    train = run(tmp_path, "train", path).splits["train"]
    assert (train.rows, sum(train.quarantined.values())) == (198, 2)


def test_a_part_of_one_has_another_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has 20 rows, R1-V's file of this name 200;"):
        run(tmp_path, "test", questions(tmp_path, count=20))
    assert run(tmp_path, "test", questions(tmp_path, "part.jsonl", 20)).splits["test"].rows == 20


def test_a_source_that_dies_in_the_middle_can_be_read_again_once_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    columns = {"image": [png(n) for n in range(600)], "problem": ["How many?"] * 600, "answer": [3] * 600}
    pq.write_table(pa.table(columns), path, row_group_size=50)
    whole = path.read_bytes()

    run(tmp_path, "train", path, "parquet")
    undisturbed = digests(tmp_path / "out")
    half = len(whole) // 2
    path.write_bytes(whole[: half - 200] + bytes(200) + whole[half:])
    with pytest.raises(UserError, match=r"rows\.parquet: cannot be read after row \d+ "):
        run(tmp_path, "train", path, "parquet")
    path.write_bytes(whole)
    run(tmp_path, "train", path, "parquet")
    assert digests(tmp_path / "out") == undisturbed


def test_a_disk_that_fails_is_no_missing_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path, [row(0), row(1)])
    (job,) = open_source(Request("counting", "train", {"source": "jsonl"}, 0, path)).jobs
    rows = iter(job())
    assert next(rows).failure is None

    def fail(self: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(UserError, match=r"rows-1\.png: cannot be read \(Input/output error\)"):
        next(rows)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_file_that_changes_while_it_is_read_does_not_lend_its_rows_to_another_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    path = write_jsonl(tmp_path, [row(0), row(1)])
    opened = []

    def open_and_change(request: Request) -> Source:
        source = open_source(request)
        opened.append(source)
        if request.path is not None:
            write_jsonl(tmp_path, [row(number) for number in range(rows)])
        return source

    monkeypatch.setattr("othink_mr1.data.prepare.open_source", open_and_change)
    with pytest.raises(UserError, match=r"data\.counting\.train: it changed while it was read \(it had 2 rows\)"):
        run(tmp_path, "train", path)
    assert opened[0].rows == 2
