"""What a training samples, in MLflow: every file of completions, and a few completions beside their picture."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

_ARTIFACTS = "completions"
_PROMPTS = 2  # of a step that are shown with their picture
_EVERY_STEP, _THEN_EVERY = 20, 10  # pictures of so many logged steps, and then of each tenth


class CompletionsTail:
    """Follows a folder in which another process puts one file a logged step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: set[str] = set()

    def read(self) -> list[tuple[Path, bool]]:
        """The files that were not given out before, and whether their pictures should be shown."""
        new = [file for file in sorted(self.folder.glob("step-*.parquet")) if file.name not in self._seen]
        found = []
        for file in new:
            self._seen.add(file.name)
            count = len(self._seen)
            found.append((file, count <= _EVERY_STEP or count % _THEN_EVERY == 0))
        return found


def log_completions(client: "MlflowClient", run_id: str, root: Path, file: Path, pictures: bool) -> None:
    """Logs a file of completions, and of its first prompts the best and the worst completion with the picture.

    A file that is gone by now (the step began anew) is passed over.
    """
    if not file.exists():
        return
    client.log_artifact(run_id, str(file), _ARTIFACTS)
    if not pictures:
        return
    try:
        table = _shown(root, file)
    except (OSError, ValueError, KeyError, IndexError, UserError) as error:  # a record that fails stops no training
        log.warning("%s: it is logged without pictures (%s)", file, error)
        return
    if table:
        client.log_table(run_id, table, f"{_ARTIFACTS}/{file.stem}.json")


def _shown(root: Path, file: Path) -> dict[str, list[Any]]:
    import mlflow
    import pyarrow.parquet as pq

    from othink_mr1.data.reading import read_split

    rows = pq.read_table(file).to_pylist()
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["index"], []).append(row)
    chosen = [row for group in list(groups.values())[:_PROMPTS] for row in _ends(group)]
    train = read_split(root / "data" / chosen[0]["task"], "train")
    if any(row["index"] >= len(train) or train[row["index"]]["sample_id"] != row["sample_id"] for row in chosen):
        return {}  # the data have changed since
    # In the order in which MLflow shows them.
    shown = ("completion", "reward", "advantage", "solution", "prompt", "sample_id", "step")
    pictures = [mlflow.Image(train[row["index"]]["image"]) for row in chosen]
    return {"picture": pictures, **{name: [row[name] for row in chosen] for name in shown}}


def _ends(group: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    ranked = sorted(group, key=lambda row: -row["reward"])
    return [ranked[0], ranked[-1]]
