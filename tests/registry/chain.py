"""Models as the pipeline's stages leave them, registered and promoted in a project folder of a test."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from flows.promotion import promote, register_candidate
from othink_mr1 import registry
from othink_mr1.settings import Promotion

TASK = "counting"
N = 60


class Settings:
    """What promotion reads of the configuration."""

    promotion = Promotion()


class Chain:
    """Leaves models as the pipeline's stages do: weights, scores and predictions, and DVC's record of them."""

    def __init__(self, project: Any, weights: Path) -> None:
        self.project, self.root, self.weights = project, project.root, weights
        project.write(".othink/params.yaml", "evaluation: {max_new_tokens: {counting: 8}, batch_size: 2}\nbase: {}\n")
        project.write("data/counting/provenance.json", {"splits": {"train": {"rows": 100, "licence": "Apache-2.0"}}})
        self.evaluated("base", {"counting": 20, "geometry": 20})

    def evaluated(self, model: str, right: dict[str, int], items: str = "i", md5: str = "") -> None:
        rows, tasks = [], {}
        for task, correct in right.items():
            accuracy = correct / N
            strict = {"correct": correct, "accuracy": accuracy, "ci95": [accuracy - 0.1, accuracy + 0.1]}
            tasks[task] = {"n": N, "strict": strict, "format_accuracy": 1.0}
            for kind in ("reasoning", "direct"):
                for k in range(N):
                    good = k < correct if kind == "reasoning" else False
                    rows.append({"sample_id": f"{items}{k}", "task": task, "prompt_kind": kind, "correct_strict": good})
        self.project.write(f"evaluation/{model}/metrics.json", json.dumps({"model": model, "tasks": tasks}))
        pq.write_table(pa.Table.from_pylist(rows), self.root / "evaluation" / model / "predictions.parquet")
        digest = md5 or f"{hash((model, tuple(right.items()), items)) & (2**128 - 1):032x}"
        self.project.lock(f"evaluate@{model}", {f"models/{model}": "m" * 32}, {f"evaluation/{model}": digest + ".dir"})

    def trained(self, name: str, counting: int, geometry: int, method: str = "grpo_d", items: str = "i") -> None:
        """A model whose weights are called `name`."""
        folder = self.root / "models" / f"{method}-{TASK}"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(self.weights)
        self.project.lock(
            f"train@{method}-{TASK}", {"models/base": "b" * 32}, {f"models/{method}-{TASK}": f"{name:0<32}.dir"}
        )
        self.evaluated(f"{method}-{TASK}", {"counting": counting, "geometry": geometry}, items)
        # The weights' digest as evaluation saw them.
        self.project.lock(
            f"evaluate@{method}-{TASK}",
            {f"models/{method}-{TASK}": f"{name:0<32}.dir"},
            {f"evaluation/{method}-{TASK}": f"{name}{counting}{geometry}{items}"},
        )

    def candidate(self, name: str, counting: int, geometry: int = 20, items: str = "i") -> registry.Version:
        self.trained(name, counting, geometry, items=items)
        return register_candidate(self.root, Settings(), TASK)  # type: ignore[arg-type]

    def promote(self, version: Any = None, **options: Any) -> Any:
        return promote(self.root, Settings(), TASK, version, **options)  # type: ignore[arg-type]

    @property
    def champion(self) -> int | None:
        found = registry.champion(self.root, TASK)
        return found.version if found else None


def picture_text() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
