"""A model folder as MLflow serves it: pyfunc with code, pinned requirements, signature and the evidence beside it."""

import shutil
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import othink_mr1
from othink_mr1.models.adapter import base_to_bundle
from othink_mr1.models.folder import is_adapter

# What serving/pyfunc_model.py and the modules it loads import, and the readers of tokenizer and weights.
_PACKAGES = ("mlflow", "torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy", "pandas", "pillow")


def requirements(adapter: bool = False) -> list[str]:
    """The packages that answer questions, at the versions installed here; a build's label (`+cpu`) says nothing."""
    names = (*_PACKAGES, "peft") if adapter else _PACKAGES
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def save_pyfunc(
    weights: Path, config: Mapping[str, Any], evidence: Mapping[str, Path | str], into: Path, model_id: str | None
) -> None:
    """Write the MLflow model.

    An adapter takes its base along, which then lies beside it, where the adapter looks for it. One of the hub stays
    there: name, commit and digest are recorded, as MLflow does it with adapters, and a version does not hold
    gigabytes that every other one holds as well. Of others nobody knows where to fetch them.

    Args:
        weights: the model folder, or an adapter's; safetensors only.
        config: `model_config` of serving/pyfunc_model.py.
        evidence: files to lie beside it under `evidence/`, by name: a path, or the text itself.
        into: a folder that does not exist yet.
        model_id: the LoggedModel that it belongs to.
    """
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    def columns(*names: str) -> Schema:
        return Schema([ColSpec(DataType.string, name) for name in names])

    # The signature says what an example would; to run one would load the model.
    warnings.filterwarnings("ignore", message=".*An input example was not provided", category=UserWarning)
    package = Path(othink_mr1.__file__).parent
    adapter, artifacts = is_adapter(weights), {"weights": str(weights.resolve())}
    if adapter and (base := base_to_bundle(weights)) is not None:
        artifacts["base"] = str(base.resolve())
    mlflow.pyfunc.save_model(
        path=str(into),
        python_model=str(package / "serving" / "pyfunc_model.py"),
        artifacts=artifacts,
        code_paths=[str(package)],
        model_config=dict(config),
        signature=ModelSignature(columns("image", "question"), columns("thinking", "answer", "completion")),
        pip_requirements=requirements(adapter),
        mlflow_model=Model(model_id=model_id, model_uuid=model_id) if model_id else None,
    )
    for cache in into.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
    write_evidence(evidence, into / "evidence")


def write_evidence(evidence: Mapping[str, Path | str], folder: Path) -> None:
    """Lay the files by which a model is judged into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in evidence.items():
        if isinstance(content, Path):
            shutil.copyfile(content, folder / name)
        else:
            (folder / name).write_text(content)
