"""What predictions.parquet says of the items that a model got right."""

from pathlib import Path

import pytest

from othink_mr1.errors import UserError
from othink_mr1.evaluation.predictions import right_items, write
from othink_mr1.names import TASKS

ROW = {"sample_id": "a", "task": TASKS[0], "prompt_kind": "reasoning", "correct_strict": True}


def test_a_sample_that_stands_twice_in_a_test_set_is_two_items(tmp_path: Path) -> None:
    direct = {**ROW, "prompt_kind": "direct"}
    write(tmp_path, [ROW, {**ROW, "correct_strict": False}, direct, {**ROW, "task": TASKS[1]}], {"tasks": {}})
    found = right_items(tmp_path / "predictions.parquet")
    assert [list(found[task].values()) for task in TASKS] == [[True, False], [True]]


def test_a_file_that_is_none_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "predictions.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="not a predictions file"):
        right_items(tmp_path / "predictions.parquet")
