"""The versions of a registered model in MLflow: made, found, loaded, and given aliases and tags."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1.errors import UserError
from othink_mr1.registry.candidates import (
    Trained,
    collect,
    description,
    registered_name,
    resolved_params,
    serving_config,
    version_tags,
)
from othink_mr1.tracking import connection, models

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CANDIDATE = "champion", "candidate"
# MLflow ties a version to its LoggedModel, but a database store does not tell which it is.
_MODEL_ID = "othink.model_id"


@dataclass(frozen=True)
class Version:
    """One registered model version."""

    task: str
    version: int
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created: float  # Unix seconds
    run_id: str | None

    @property
    def name(self) -> str:
        """The registered model that it is a version of."""
        return registered_name(self.task)

    @property
    def weights(self) -> str:
        """DVC's digest of the weights."""
        return self.tags.get("othink.weights", "")

    @property
    def method(self) -> str:
        """How it was trained."""
        return self.tags.get("othink.method", "")


def register(
    root: Path, task: str, method: str, params: Mapping[str, Any] | None = None, run_id: str | None = None
) -> Version:
    """Register the model that `method` trained on `task`, as the task's candidate.

    The same weights are registered once: later calls return that version, with the evidence brought up to date if
    the model was evaluated anew.

    Args:
        root: the project's folder.
        task: the training task.
        method: sft, grpo or grpo_d.
        params: the resolved parameters; read from .othink/params.yaml if not given.
        run_id: the run that trained it; else the stage's run is searched by its digest.

    Raises:
        UserError: not trained or not evaluated yet; MLflow does not answer.
    """
    trained = collect(root, task, method, params or resolved_params(root), run_id)
    with locked(root, task):
        known = next((v for v in versions(root, task) if v.weights == trained.weights), None)
        if known is None:
            number = _create(root, trained, params or resolved_params(root))
            set_alias(root, task, CANDIDATE, number)
            return version(root, task, str(number))
        if known.tags.get("othink.evaluation") != trained.evaluation:
            _refresh_evidence(root, known, trained)
        if CHAMPION not in known.aliases and CANDIDATE not in known.aliases:
            set_alias(root, task, CANDIDATE, known.version)
        return version(root, task, str(known.version))


def versions(root: Path, task: str) -> list[Version]:
    """All versions of a task's registered model, the newest first; none where it was never registered.

    Raises:
        UserError: no such task; MLflow does not answer.
    """
    name = registered_name(task)

    def search(client: "MlflowClient") -> list[Version]:
        found = client.search_model_versions(f"name = '{name}'")
        # A search does not bring the aliases of its versions; the registered model has them all.
        registered = client.search_registered_models(f"name = '{name}'")
        aliases = registered[0].aliases if registered else {}
        return [_version(task, entry, aliases) for entry in found]

    return sorted(connection.store(root).require(search), key=lambda v: -v.version)


def version(root: Path, task: str, which: str) -> Version:
    """The version with this number or alias.

    Raises:
        UserError: there is none; the message says what there is.
    """
    all_versions = versions(root, task)
    for entry in all_versions:
        if which == str(entry.version) or which in entry.aliases:
            return entry
    if not all_versions:
        raise UserError(f"{registered_name(task)} has no version yet; `othink run` registers one")
    if which == CHAMPION:
        raise UserError(f"{registered_name(task)} has no champion yet; `othink promote --task {task}` makes one")
    if which == CANDIDATE:
        raise UserError(f"{registered_name(task)} has no candidate that waits; see `othink models`")
    numbers = ", ".join(str(entry.version) for entry in reversed(all_versions))
    raise UserError(f"{registered_name(task)} has no version {which!r}; there are {numbers} and their aliases")


def champion(root: Path, task: str) -> Version | None:
    """The task's champion, or None while there is none."""
    return next((entry for entry in versions(root, task) if CHAMPION in entry.aliases), None)


def evidence(root: Path, entry: Version, file: str) -> Path:
    """A file of a version's evidence, on this machine.

    Raises:
        UserError: the version has none such, or its store cannot be read.
    """
    uri = f"models:/{entry.name}/{entry.version}/evidence/{file}"
    try:
        return Path(connection.store(root).require(lambda _: _download(root, uri)))
    except Exception as error:
        if isinstance(error, connection.StoreAwayError):
            raise
        raise UserError(f"{entry.name} version {entry.version}: its {file} cannot be read ({error})") from error


def load(root: Path, entry: Version) -> Any:
    """The version as MLflow serves it: an object whose `predict` takes rows of image and question.

    Raises:
        UserError: its store cannot be read.
    """

    def read(_: "MlflowClient") -> Any:
        import mlflow

        return mlflow.pyfunc.load_model(f"models:/{entry.name}/{entry.version}")

    return connection.store(root).require(read)


def set_alias(root: Path, task: str, alias: str, number: int) -> None:
    """Point an alias at a version; it leaves the one it pointed at."""
    name = registered_name(task)
    connection.store(root).require(lambda client: client.set_registered_model_alias(name, alias, str(number)))


def drop_alias(root: Path, task: str, alias: str) -> None:
    """Take an alias away, if it is there."""
    name = registered_name(task)
    connection.store(root).require(lambda client: client.delete_registered_model_alias(name, alias))


def tag(root: Path, entry: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a version."""

    def write(client: "MlflowClient") -> None:
        for key, value in tags.items():
            client.set_model_version_tag(entry.name, str(entry.version), key, value)

    connection.store(root).require(write)


def untag(root: Path, entry: Version, key: str) -> None:
    """Take a tag of a version away."""
    number = str(entry.version)
    connection.store(root).require(lambda client: client.delete_model_version_tag(entry.name, number, key))


@contextmanager
def locked(root: Path, task: str) -> Iterator[None]:
    """One process a machine at a time changes the versions and aliases of a task."""
    from filelock import FileLock

    path = root / connection.FOLDER / f"registry-{registered_name(task)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


def _create(root: Path, trained: Trained, params: Mapping[str, Any]) -> int:
    from othink_mr1.serving.saving import save_pyfunc

    store, name = connection.store(root), registered_name(trained.task)
    experiment = store.require(lambda _: store.experiment_id)

    def its_model(client: "MlflowClient") -> "LoggedModel":
        found = models.find_model(client, experiment, trained.model, trained.weights)
        about = (experiment, trained.model, trained.weights, trained.run_id)
        return found or models.create_model(client, *about)

    def write_version(client: "MlflowClient") -> int:
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=f"Answers {trained.task} questions about a picture.")
        source, text = f"models:/{model.model_id}", description(trained)
        tags = version_tags(root, trained) | {_MODEL_ID: model.model_id}
        created = client.create_model_version(
            name, source, run_id=trained.run_id, tags=tags, description=text, model_id=model.model_id
        )
        # As mlflow.register_model does: the model's own page names its version.
        client.set_logged_model_tags(
            model.model_id, {"mlflow.modelVersions": json.dumps([{"name": name, "version": created.version}])}
        )
        return int(created.version)

    model = store.require(its_model)
    # In the project, not in /tmp, which may be too small for the weights of a large model.
    with _scratch(root) as folder:
        weights = root / "models" / trained.model
        save_pyfunc(weights, serving_config(trained.task, params), trained.evidence, folder / "model", model.model_id)
        store.require(lambda client: client.log_model_artifacts(model.model_id, str(folder / "model")))
    return store.require(write_version)


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    parent = root / ".othink" / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refresh_evidence(root: Path, known: Version, trained: Trained) -> None:
    """The model was evaluated anew (another test set, another base): the version takes the new evidence."""
    from othink_mr1.serving.saving import write_evidence

    def write(client: "MlflowClient") -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_evidence(trained.evidence, Path(folder))
            client.log_model_artifacts(known.tags[_MODEL_ID], folder, artifact_path="evidence")
        client.update_model_version(known.name, str(known.version), description(trained))

    connection.store(root).require(write)
    tag(root, known, version_tags(root, trained))


def _version(task: str, entry: "ModelVersion", aliases: Mapping[str, str]) -> Version:
    own = tuple(sorted(alias for alias, number in aliases.items() if str(number) == str(entry.version)))
    return Version(task, int(entry.version), own, dict(entry.tags), entry.creation_timestamp / 1000, entry.run_id)


def _download(root: Path, uri: str) -> str:
    from mlflow.artifacts import download_artifacts

    address = connection.store(root).uri
    return str(download_artifacts(uri, tracking_uri=address, registry_uri=address))
