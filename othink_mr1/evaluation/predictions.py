"""predictions.parquet and metrics.json: what evaluating one model leaves, with no time in it."""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from othink_mr1.errors import UserError
from othink_mr1.stages import write_whole

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("task", pa.string()),
        ("trained_on", pa.string()),
        ("method", pa.string()),
        ("prompt_kind", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("answer_read", pa.string()),
        ("correct_strict", pa.bool_()),
        ("correct_r1v", pa.bool_()),
        ("format_ok", pa.bool_()),
        ("clipped", pa.bool_()),
        ("tokens", pa.int64()),
        ("solution", pa.string()),
    ]
)


def split_model_name(model: str) -> tuple[str, str]:
    """(method, task it was trained on) of a model's name; the base was trained on no task: ""."""
    method, _, trained_on = model.partition("-")
    return method, trained_on


def write(folder: Path, rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> None:
    """Write both files, each whole or not at all, metrics.json last: where it is, all is there."""
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA), content, compression="zstd")
    write_whole(folder / "predictions.parquet", content.getvalue())
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics of one model.

    Raises:
        UserError: the file is missing or broken.
    """
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(
            f"{path}: there is no such file; `python -m steps.evaluate --model {folder.name}` writes it"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(metrics, dict) or not isinstance(metrics.get("tasks"), dict):
        raise UserError(f"{path}: tasks is missing; the file was not written by steps.evaluate")
    return metrics


def read_predictions(folder: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of one model's predictions.

    Raises:
        UserError: the file is missing or broken.
    """
    path = folder / "predictions.parquet"
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; `python -m steps.evaluate --model {folder.name}` writes it")
    return _rows(path, columns)


def right_items(path: Path) -> dict[str, dict[str, bool]]:
    """task -> item -> right by the strict protocol, under the reasoning prompt, of a predictions.parquet.

    A test set may hold the same sample twice: an item is a sample's id with the number of its appearance.

    Raises:
        UserError: the file cannot be read.
    """
    right: dict[str, dict[str, bool]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for row in _rows(path, ("sample_id", "task", "prompt_kind", "correct_strict")):
        if row["prompt_kind"] == "reasoning":
            item = (row["task"], row["sample_id"])
            right.setdefault(row["task"], {})[f"{row['sample_id']}#{seen[item]}"] = bool(row["correct_strict"])
            seen[item] += 1
    return right


def _rows(path: Path, columns: Sequence[str] | None) -> list[dict[str, Any]]:
    try:
        return list(pq.read_table(path, columns=list(columns) if columns else None).to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a predictions file ({str(error).splitlines()[0]})") from None
