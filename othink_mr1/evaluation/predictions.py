"""predictions.parquet and metrics.json: what evaluating one model leaves, with no time in it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from othink_mr1.errors import UserError

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
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".predictions.{os.getpid()}"
    try:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA), beside, compression="zstd")
        os.replace(beside, folder / "predictions.parquet")
        beside.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, folder / "metrics.json")
    finally:
        beside.unlink(missing_ok=True)


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
    try:
        return list(pq.read_table(path, columns=list(columns) if columns else None).to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a predictions file ({str(error).splitlines()[0]})") from None
