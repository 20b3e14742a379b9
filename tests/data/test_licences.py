"""Whose data they are: named, warned of or refused, and carried on."""

import json
from pathlib import Path
from typing import Any

import pytest
from makers import row, write_jsonl

from othink_mr1.data.prepare import Prepared, prepare
from othink_mr1.errors import UserError
from othink_mr1.registry.model_card import model_card

SYNTHETIC = {"source": "synthetic", "rows": 3, "image_size": 64}


def prepared(folder: Path, licence: str | None = None, **settings: Any) -> Prepared:
    path = write_jsonl(folder, [row(number) for number in range(8)])
    train = {"source": "jsonl", "sha256": "abc", "licence": licence}
    splits = {"train": train, "validation": {"fraction": 0.3}, "test": SYNTHETIC}
    (folder / "out").mkdir(exist_ok=True)
    return prepare("counting", {**splits, **settings}, 0, {"data.counting.train": path}, folder / "out")


def provenance(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "out" / "provenance.json").read_text()))


def test_a_licence_that_is_not_known_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "data.counting.train: warning: the licence of its source is not known; name it as its `licence`"
    ]
    assert provenance(tmp_path)["splits"]["train"]["licence"] == "unknown"


def test_it_is_an_error_where_params_yaml_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^data\.counting\.train: the licence .* as in data\.counting\.train\.licence="
    ):
        prepared(tmp_path, require_licence=True)
    assert list((tmp_path / "out").iterdir()) == []
    prepared(tmp_path, "CC-BY-4.0", require_licence=True)


def test_a_named_licence_is_carried_to_the_splits_and_the_model_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = prepared(tmp_path, "CC-BY-4.0")
    assert capsys.readouterr().err == ""
    known = provenance(tmp_path)
    assert [known["splits"][split]["licence"] for split in ("train", "validation", "test")] == [
        "CC-BY-4.0",
        "CC-BY-4.0",
        "Apache-2.0",
    ]
    known["splits"]["train"] |= {"quarantined": {"duplicate": 2}, "revision": "c0ffee"}
    strict = {"accuracy": 0.5, "ci95": (0.4, 0.6)}
    metrics = {"tasks": {"counting": {"n": 3, "strict": strict}}}
    card = model_card("counting", "sft", metrics, metrics, {}, known, {})
    assert (
        f"- train: {found.splits['train'].rows} rows, source jsonl, licence CC-BY-4.0, revision c0ffee, sha256 abc, "
        "2 of 8 rows put aside (2 duplicate)\n"
    ) in card


def test_no_date_is_in_what_other_stages_may_read(tmp_path: Path) -> None:
    found = prepared(tmp_path, "MIT")
    assert found.splits["train"].fetched == (tmp_path / "rows.jsonl").stat().st_mtime
    assert found.splits["validation"].fetched == found.splits["train"].fetched
    assert found.splits["test"].fetched is None
    assert "fetched" not in (tmp_path / "out" / "provenance.json").read_text()
