"""The completions that a training samples, in a folder of parquet files: one a logged step, `step-000010.parquet`."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import TrainerCallback

_TYPES = {int: pa.int64, str: pa.string}  # anything else is a reward, which may be None
_NAME = re.compile(r"step-(\d+)\.parquet")


class CompletionsFolder(TrainerCallback):
    """Writes what `GRPODTrainer` records, and after a resume begins with what the checkpoint's run had written.

    A row is a completion: `step`, `sample_id` and `index` of its sample, `task`, `prompt`, `solution`, `completion`,
    each reward by its function's name (empty where that had nothing to say), `reward`, `advantage`.

    Args:
        folder: where people look; DVC empties it before a stage runs.
        kept: a copy that lies with the checkpoints and lives as long as they do.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        self.folder, self.kept = folder, kept

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.kept.mkdir(parents=True, exist_ok=True)
        for file in sorted(self.kept.iterdir()):
            name = _NAME.fullmatch(file.name)
            if name is not None and int(name[1]) <= state.global_step:
                shutil.copyfile(file, self.folder / file.name)
            else:  # of steps after the checkpoint, which come again
                file.unlink()

    def __call__(self, step: int, rows: list[dict[str, Any]]) -> None:
        name = f"step-{step:06d}.parquet"
        rows = [{"step": step, **row} for row in rows]
        types = {name: _TYPES.get(type(value), pa.float64) for name, value in rows[0].items()}
        table = pa.Table.from_pylist(rows, pa.schema([(name, make()) for name, make in types.items()]))
        for folder in (self.kept, self.folder):
            pq.write_table(table, folder / f".{name}.part")
            os.replace(folder / f".{name}.part", folder / name)
