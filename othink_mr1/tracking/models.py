"""Which model a stage made or scored, and on which data, as MLflow's LoggedModels and datasets.

A score that names its model and its dataset is what lets MLflow show same-task and cross-task accuracy side by side.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1.dvc_lock import StageDigests
from othink_mr1.models.adapter import adapter_of, lora_facts
from othink_mr1.tracking import rows

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, LoggedModel

    from othink_mr1.tracking.mirror import StageMirror


def log_inputs(mirror: "StageMirror", digests: StageDigests, client: "MlflowClient") -> None:
    """Name the datasets and models that the stage read, with DVC's digests."""
    from mlflow.entities import DatasetInput, InputTag, LoggedModelInput

    context = "evaluation" if mirror.stage.startswith("evaluate") else "training"
    datasets = [
        DatasetInput(
            _dataset(path, md5),
            [
                InputTag("mlflow.data.context", context),
                InputTag("dvc.digest", md5),
                *(InputTag(name, text) for name, text in _provenance(mirror.root / path).items()),
            ],
        )
        for path, md5 in digests.deps.items()
        if path.startswith("data/")
    ]
    models = [LoggedModelInput(model.model_id) for model in _models(mirror, client, digests.deps)]
    if datasets or models:
        client.log_inputs(_run_id(mirror), datasets, models)


def log_model(mirror: "StageMirror", digests: StageDigests, client: "MlflowClient") -> None:
    """Make the LoggedModel of the weights that the stage wrote and tie it to the run."""
    from mlflow.entities import LoggedModelOutput

    for path, md5 in digests.outs.items():
        if not path.startswith("models/"):
            continue
        model = find_model(client, mirror.experiment_id, Path(path).name, md5)
        if model is None:
            # What a setting leaves open, such as the rank's alpha, the adapter knows.
            params = {**mirror.params, **lora_facts(adapter_of(mirror.root / path))}
            model = create_model(client, mirror.experiment_id, Path(path).name, md5, _run_id(mirror), params)
        client.log_outputs(_run_id(mirror), [LoggedModelOutput(model.model_id, step=0)])


def log_scores(mirror: "StageMirror", digests: StageDigests, client: "MlflowClient") -> None:
    """Log an evaluation's numbers, such as `counting/strict/accuracy`, on its model and test set."""
    from mlflow.entities import Metric

    paths = [mirror.root / out for out in digests.outs if out.startswith("evaluation/")]
    files = [path / "metrics.json" if path.is_dir() else path for path in paths]
    models = _models(mirror, client, digests.deps)
    model_id = models[0].model_id if models else None
    for file in files:
        if file.name != "metrics.json" or not file.exists():
            continue
        for task, numbers in rows.scores(json.loads(file.read_text())).items():
            data = next((_dataset(p, md5) for p, md5 in digests.deps.items() if p.startswith(f"data/{task}")), None)
            about: dict[str, Any] = {"model_id": model_id}
            if data is not None:
                about |= {"dataset_name": data.name, "dataset_digest": data.digest}
            moment = mirror.moment(None)
            metrics = [Metric(f"{task}/{name}", value, moment, 0, **about) for name, value in numbers.items()]
            mirror.log_metrics(client, metrics)


def log_row_counts(mirror: "StageMirror", digests: StageDigests, client: "MlflowClient") -> None:
    """Log how many rows a data stage read, kept and put aside."""
    from mlflow.entities import Metric

    for out in digests.outs:
        file = mirror.root / out / "provenance.json"
        if out.startswith("data/") and file.exists():
            counts = rows.row_counts(json.loads(file.read_text()))
            mirror.log_metrics(client, [Metric(name, n, mirror.moment(None), 0) for name, n in counts.items()])


def find_model(client: "MlflowClient", experiment_id: str, name: str, weights: str) -> "LoggedModel | None":
    """The LoggedModel of these weights (DVC's digest of their folder), or None."""
    query = f"name = '{name}' AND tags.`othink.weights` = '{weights}'"
    found = client.search_logged_models([experiment_id], filter_string=query, max_results=1)
    return found[0] if found else None


def create_model(
    client: "MlflowClient",
    experiment_id: str,
    name: str,
    weights: str,
    run_id: str | None,
    params: dict[str, str] | None = None,
) -> "LoggedModel":
    """A new LoggedModel that stands for weights which DVC keeps; registration adds the files to it."""
    tags = {"othink.weights": weights}
    model = client.create_logged_model(experiment_id, name, run_id, tags, params, model_type="vision-language")
    return client.finalize_logged_model(model.model_id, "READY")


def _models(mirror: "StageMirror", client: "MlflowClient", files: dict[str, str]) -> list["LoggedModel"]:
    """The LoggedModels of the weights among these files; made where the run that wrote them was never logged.

    An evaluation depends on the base, too, because an adapter does, but it is about the model that it has its name of.
    """
    models = []
    kind, _, about = mirror.stage.partition("@")
    for path, md5 in files.items():
        if path.startswith("models/") and (kind != "evaluate" or path == f"models/{about}"):
            name = Path(path).name
            found = find_model(client, mirror.experiment_id, name, md5)
            models.append(found or create_model(client, mirror.experiment_id, name, md5, None))
    return models


def _dataset(path: str, md5: str) -> "Dataset":
    """`data/counting/test` as the dataset `counting test`, whose digest is DVC's."""
    from mlflow.entities import Dataset

    parts = Path(path).parts[1:]
    return Dataset(" ".join(parts), md5[:36], source_type="dvc", source=json.dumps({"path": path, "md5": md5}))


def _provenance(split: Path) -> dict[str, str]:
    """Where the rows of a split come from, and under which licence; nothing where provenance.json is missing."""
    try:
        told = json.loads((split.parent / "provenance.json").read_text(encoding="utf-8"))["splits"][split.stem]
    except (OSError, ValueError, KeyError):
        return {}
    source = told.get("source") or {}
    known = {
        "source": " ".join(str(source[key]) for key in ("source", "name", "split") if source.get(key)),
        **{key: str(told.get(key) or "") for key in ("licence", "revision", "sha256", "rows")},
    }
    return {f"data.{key}": text for key, text in known.items() if text}


def _run_id(mirror: "StageMirror") -> str:
    assert mirror.run_id is not None
    return mirror.run_id
