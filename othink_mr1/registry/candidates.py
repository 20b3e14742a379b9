"""A trained model as its stages left it: what a registered version is made of."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from othink_mr1 import dvc_lock, tracking
from othink_mr1.errors import UserError
from othink_mr1.git_state import git_tags
from othink_mr1.models.adapter import Adapter, adapter_of, lora_facts
from othink_mr1.models.hub import origin
from othink_mr1.names import TASKS
from othink_mr1.registry.model_card import model_card

# MLflow's own limit of a description in its database.
_DESCRIPTION = 5000


@dataclass(frozen=True)
class Trained:
    """A trained and evaluated model as its stages left it."""

    task: str
    method: str
    weights: str
    evaluation: str
    digests: dict[str, str]
    run_id: str | None
    metrics: dict[str, Any]
    evidence: dict[str, Path | str]
    adapter: Adapter | None = None

    @property
    def model(self) -> str:
        """Name of its folders."""
        return f"{self.method}-{self.task}"


def registered_name(task: str) -> str:
    """Name of the registered model of a task.

    Raises:
        UserError: there is no such task.
    """
    if task not in TASKS:
        raise UserError(f"task: {task!r} is unknown; it should be one of {', '.join(TASKS)}")
    return f"othink-mr1-{task}"


def other_task(task: str) -> str:
    """The task that a model of `task` was not trained on."""
    return TASKS[1 - TASKS.index(task)]


def collect(root: Path, task: str, method: str, params: Mapping[str, Any], run_id: str | None = None) -> Trained:
    """What the stages left of a model: digests, scores, predictions, card.

    Raises:
        UserError: a stage that should have made it never ended well here.
    """
    registered_name(task)
    model = f"{method}-{task}"
    recorded = dvc_lock.read_stages(root)
    digests: dict[str, str] = {}
    for stage in (f"train@{model}", f"evaluate@{model}", "evaluate@base"):
        if stage not in recorded:
            raise UserError(f"{model} cannot be registered: stage {stage} has not run; run `othink run` first")
        digests |= recorded[stage].deps | recorded[stage].outs
    folders = {name: root / "evaluation" / name for name in (model, "base")}
    metrics = {name: _read_json(folder / "metrics.json") for name, folder in folders.items()}
    provenance = root / "data" / task / "provenance.json"
    known = _read_json(provenance) if provenance.exists() else {}
    data = {path: md5 for path, md5 in digests.items() if path.startswith(("data/", "models/"))}
    tags = {"commit": git_tags(root).get("mlflow.source.git.commit", ""), **data}
    adapter, base = adapter_of(root / "models" / model), origin(root / "models" / "base")
    card = model_card(task, method, metrics[model], metrics["base"], params, known, tags, adapter, base)
    evidence: dict[str, Path | str] = {
        "model_card.md": card,
        "metrics.json": folders[model] / "metrics.json",
        "predictions.parquet": folders[model] / "predictions.parquet",
        "base_metrics.json": folders["base"] / "metrics.json",
        "base_predictions.parquet": folders["base"] / "predictions.parquet",
    }
    if known:
        evidence["provenance.json"] = provenance
    for content in evidence.values():
        if isinstance(content, Path) and not content.is_file():
            raise UserError(f"{content.relative_to(root)} is missing; run `othink run` to make it again")
    if run_id is None:
        run_id = tracking.find_stage_run(root, f"train@{model}", recorded[f"train@{model}"].outputs)
    evaluation = f"{recorded[f'evaluate@{model}'].outputs}-{recorded['evaluate@base'].outputs}"
    weights = digests[f"models/{model}"]
    return Trained(task, method, weights, evaluation, data, run_id, metrics[model], evidence, adapter)


def serving_config(task: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """How the model is asked when it serves: as the evaluation asked it."""
    evaluation = params.get("evaluation", {})
    return {
        "task": task,
        "max_new_tokens": evaluation.get("max_new_tokens", {}).get(task, 256),
        "max_pixels": params.get("base", {}).get("max_pixels"),
        "batch_size": evaluation.get("batch_size", 8),
    }


def version_tags(root: Path, trained: Trained) -> dict[str, str]:
    """Where the version comes from and how it scored, as text."""
    tags = {
        "othink.task": trained.task,
        "othink.method": trained.method,
        "othink.weights": trained.weights,
        "othink.evaluation": trained.evaluation,
    }
    for task, of_task in trained.metrics.get("tasks", {}).items():
        kind = "same_task" if task == trained.task else "cross_task"
        tags[f"accuracy.{kind}"] = f"{of_task['strict']['accuracy']:.4f}"
        tags[f"n.{kind}"] = str(of_task["n"])
    tags |= lora_facts(trained.adapter)
    tags |= {f"dvc.{path}": md5 for path, md5 in trained.digests.items()}
    git = git_tags(root)
    if git:
        tags |= {"git.commit": git["mlflow.source.git.commit"], "git.dirty": git["othink.git.dirty"]}
    return tags


def description(trained: Trained) -> str:
    """The model card, as far as MLflow takes it."""
    card = str(trained.evidence["model_card.md"]).removeprefix("# ")  # lists show the first line as it is
    return card if len(card) <= _DESCRIPTION else card[: _DESCRIPTION - 2] + " …"


def resolved_params(root: Path) -> dict[str, Any]:
    """The parameters in force.

    Raises:
        UserError: they were not resolved yet.
    """
    path = root / ".othink" / "params.yaml"
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({tracking.first_line(error)}); run `othink run` first") from None
    return content if isinstance(content, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({tracking.first_line(error)}); run `othink run`") from None
    return content if isinstance(content, dict) else {}
