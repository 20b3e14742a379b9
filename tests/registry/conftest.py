"""A project folder with its own MLflow database, and stages that look as DVC and the steps leave them."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from othink_mr1.tracking import connection
from tests.registry.chain import Chain


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: the migrations of a new database take six seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connection.prepare_environment()
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, connected to its own MLflow."""
    for key in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(key, raising=False)
    folder = tmp_path / "project"
    database = folder / ".othink" / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    shutil.copy(empty_database, database)
    connection.connect(folder)
    return folder


class Project:
    """Writes what steps and DVC would have written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, content: object) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    def log(self, model: str, rows: list[dict[str, float]], half: str = "") -> Path:
        """Write log.jsonl as a trainer does: beside, then in its place."""
        file = self.root / "training" / model / "log.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".new")
        beside.write_text("".join(json.dumps(row) + "\n" for row in rows) + half)
        os.replace(beside, file)
        return file

    def lock(self, stage: str, deps: dict[str, str], outs: dict[str, str]) -> None:
        """Add a stage to dvc.lock."""
        path = self.root / "dvc.lock"
        content: Any = yaml.safe_load(path.read_text()) if path.exists() else {"schema": "2.0", "stages": {}}
        content["stages"][stage] = {
            "cmd": f"python -m steps.{stage.partition('@')[0]}",
            "deps": [{"path": path, "md5": md5} for path, md5 in deps.items()],
            "outs": [{"path": path, "md5": md5} for path, md5 in outs.items()],
        }
        path.write_text(yaml.safe_dump(content))


@pytest.fixture
def project(root: Path) -> Project:
    return Project(root)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny, untrained Qwen2-VL."""
    import torch

    from othink_mr1.models.loading import save_model
    from othink_mr1.models.tiny import build_model, build_processor

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    processor = build_processor(["How many items are there in the image? <think> 1 2 3 </think>"] * 5, 400)
    save_model(build_model(processor, hidden_size=64, num_hidden_layers=1, vision_depth=1), processor, folder)
    return folder


@pytest.fixture
def chain(project: Project, weights: Path) -> Chain:
    return Chain(project, weights)
