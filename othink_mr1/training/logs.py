"""What a training run leaves to read: `log.jsonl`, a line a logged step with times, and `curves.csv` without them.

Nothing that another step depends on may hold a time; so the two are apart.
"""

import csv
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from othink_mr1.stages import write_whole

# They differ from run to run, or repeat the step.
_TIMES = ("step_time", "tokens_per_second", "epoch")


class LogFile(TrainerCallback):
    """Appends every log to a JSONL file, whose first lines, after a resume, are those of the checkpoint.

    Args:
        path: the file.
        resumed_anyway: the steps at which the run went on although its code had changed: the record says so.
    """

    def __init__(self, path: Path, resumed_anyway: Sequence[int] = ()) -> None:
        self.path = path
        self.resumed_anyway = resumed_anyway

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        known = {entry["step"] for entry in state.log_history if "resumed_anyway" in entry}
        state.log_history += [{"resumed_anyway": 1.0, "step": s} for s in self.resumed_anyway if s not in known]
        write_whole(self.path, "".join(json.dumps(entry) + "\n" for entry in state.log_history))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**state.log_history[-1], "time": time.time()}) + "\n")


def write_curves(history: list[dict[str, Any]], path: Path) -> None:
    """A row a step, a column a metric, empty where a metric was not logged.

    Args:
        history: the trainer's `state.log_history`.
    """
    rows: dict[int, dict[str, float]] = {}
    for entry in history:
        if "train_runtime" in entry:  # the Trainer's closing summary, which is no step's
            continue
        kept = {
            name: value
            for name, value in entry.items()
            if name not in (*_TIMES, "step") and not name.startswith("time/")
        }
        rows.setdefault(entry["step"], {}).update(kept)
    columns = sorted({name for row in rows.values() for name in row})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *columns])
    for step, row in sorted(rows.items()):
        writer.writerow([step, *(repr(row[c]) if c in row else "" for c in columns)])
    write_whole(path, text.getvalue())
