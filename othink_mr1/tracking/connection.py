"""The connection to MLflow: where it is, what to do while it does not answer, and addresses for people.

MLflow takes seconds to import, so it is imported where it is first used, never at the top.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from othink_mr1 import processes
from othink_mr1.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

T = TypeVar("T")

EXPERIMENT = "othink-mr1"
FOLDER = Path(".othink/mlflow")
UI_FILE = Path(".othink/ui.json")

# Seconds between two tries while the server does not answer: a step is polled every second and must not wait each time.
PATIENCE = 30.0

# A user's own setting wins, but for the last: nothing untrusted is unpickled (DESIGN.md, decision 10).
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server's client prints two lines for each run that it ends; the board names the runs' pages.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own defaults try for minutes while the pipeline waits.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}

# MLflow's page shows runs and models of such an experiment first, not prompts and traces.
_ABOUT = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": (
        "One run a pipeline run (`othink run`), with one run a stage inside it: open the plus sign before its name. "
        "`accuracy/<test set>/<model>` compares pipeline runs; `<test set>/strict/accuracy` compares models."
    ),
}

# What trying again would not change: the call itself was wrong, or what it speaks of is gone.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}


class StoreAwayError(UserError):
    """MLflow does not answer. The pipeline goes on without it; registration and promotion cannot."""


@dataclass
class Store:
    """MLflow as one project folder sees it. Connects at the first call that needs it; safe to use from threads."""

    root: Path
    uri: str
    experiment: str
    # Who is told that the server went away or is back; the flow puts its board here.
    tell: Callable[[str], None] = log.warning
    away_until: float = 0.0
    unfinished: list[Any] = field(default_factory=list)
    _client: "MlflowClient | None" = None
    _experiment_id: str | None = None
    _warned: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def local(self) -> bool:
        """Whether this process writes the database itself, so that artifacts lie on this machine too."""
        return not self.uri.startswith(("http://", "https://"))

    @property
    def away(self) -> bool:
        """Whether the last call failed so short ago that the next is not worth a try."""
        return time.monotonic() < self.away_until

    def client(self) -> "MlflowClient":
        """The connected client; the database, its folder and the experiment exist afterwards.

        Raises:
            Exception: whatever MLflow raises where it cannot be reached.
        """
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    @property
    def experiment_id(self) -> str:
        """Id of the experiment that holds all runs of the project."""
        self.client()
        assert self._experiment_id is not None
        return self._experiment_id

    def attempt(self, what: str, call: Callable[["MlflowClient"], T]) -> tuple[bool, T | None]:
        """Call MLflow without letting its absence stop the pipeline.

        Returns:
            (True, the answer); (True, None) where MLflow refused the call for good, after a warning; (False, None)
            where it does not answer: the caller keeps what it has and tries again later.
        """
        if self.away:
            return False, None
        try:
            answer = call(self.client())
        except Exception as error:
            if not _is_mlflow_trouble(error):
                raise
            if getattr(error, "error_code", "") in _REFUSALS:
                log.warning("MLflow refused %s: %s", what, first_line(error))
                return True, None
            self._went_away(error)
            return False, None
        if self._warned:
            self.tell("MLflow answers again: what is missing is logged now")
        self.away_until, self._warned = 0.0, False
        return True, answer

    def require(self, call: Callable[["MlflowClient"], T]) -> T:
        """Call MLflow where nothing can go on without it; its refusals are the caller's to understand.

        Raises:
            StoreAwayError: it does not answer.
        """
        try:
            return call(self.client())
        except Exception as error:
            if not _is_mlflow_trouble(error) or getattr(error, "error_code", "") in _REFUSALS:
                raise
            raise StoreAwayError(f"MLflow at {hide_password(self.uri)} does not answer ({_cause(error)})") from None

    def _went_away(self, error: Exception) -> None:
        self.away_until = time.monotonic() + PATIENCE
        if not self._warned:
            self._warned = True
            self.tell(
                f"MLflow at {hide_password(self.uri)} does not answer ({_cause(error)}): the run goes on, "
                "and what is missing is logged when it is back"
            )

    def _connect(self) -> "MlflowClient":
        prepare_environment()
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        import mlflow

        # The client is told where to go; code of MLflow that asks the environment (artifacts, models:/) must agree.
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        client = mlflow.MlflowClient(self.uri, registry_uri=self.uri)
        self._experiment_id = self._find_experiment(client)
        return client

    def _find_experiment(self, client: "MlflowClient") -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            # A server decides itself where artifacts go. With plain SQLite they would land in ./mlruns.
            place = (self.root / FOLDER / "artifacts").as_uri() if self.local else None
            try:
                created = str(client.create_experiment(self.experiment, artifact_location=place, tags=_ABOUT))
                if self.local:
                    _hide_default(client)
                return created
            except MlflowException:
                found = client.get_experiment_by_name(self.experiment)  # another process was faster
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)


def _hide_default(client: "MlflowClient") -> None:
    """Put away MLflow's own empty experiment, which would keep its artifacts in ./mlruns of any folder."""
    default = client.get_experiment_by_name("Default")
    if (
        default
        and default.lifecycle_stage == "active"
        and not client.search_runs([default.experiment_id], max_results=1)
    ):
        client.delete_experiment(default.experiment_id)


_stores: dict[Path, Store] = {}


def connect(root: Path, uri: str | None = None, experiment: str | None = None) -> Store:
    """Say which MLflow the project at `root` uses; later calls with this root use it. Touches no network or disk.

    Args:
        root: the project's folder.
        uri: `tracking.uri` of params.yaml; the environment's MLFLOW_TRACKING_URI goes before it, and without
            either it is the SQLite database under `.othink/mlflow`.
        experiment: name of the MLflow experiment.

    Raises:
        UserError: an address of a kind that MLflow no longer has.
    """
    root = root.resolve()
    address = os.environ.get("MLFLOW_TRACKING_URI") or uri or f"sqlite:///{root / FOLDER / 'mlflow.db'}"
    if not re.match(r"(https?|sqlite|postgresql|mysql|mssql)(\+\w+)?://", address):
        raise UserError(
            f"tracking.uri (or MLFLOW_TRACKING_URI): {address!r} is not an address of MLflow; "
            "allowed are http(s)://host:port, sqlite:////path/to/mlflow.db and postgresql://..."
        )
    known = _stores.get(root)
    if known is None or known.uri != address or (experiment is not None and known.experiment != experiment):
        known = _stores[root] = Store(root, address, experiment or EXPERIMENT)
    return known


def store(root: Path) -> Store:
    """The store that `connect` set up for this root, else the default one."""
    return _stores.get(root.resolve()) or connect(root)


def prepare_environment() -> None:
    """Set what MLflow reads from the environment, before it is imported: no telemetry, no pickle, short waits."""
    for key, value in _DEFAULTS.items():
        os.environ.setdefault(key, value)
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    for noisy in ("mlflow.store.db.utils", "alembic", "alembic.runtime.migration"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def ui_address(root: Path, service: str = "mlflow") -> str | None:
    """Address of a service ("mlflow" or "prefect") of the `othink ui` that runs for this project, or None."""
    try:
        entry = json.loads((root / UI_FILE).read_text())
        process = processes.parse(entry["process"])
        return str(entry[service]) if process is not None and process.alive else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def page(root: Path, fragment: str) -> str | None:
    """Address of a page of MLflow's interface (`experiments/1/runs/...`), or None where no server shows it."""
    current = store(root)
    base = ui_address(root) if current.local else re.sub(r"://[^/@]+@", "://", current.uri)
    # Without it the page's menu is that of prompts and traces.
    return f"{base.rstrip('/')}/#/{fragment}?workflowType=machine_learning" if base else None


def run_url(root: Path, run_id: str) -> str | None:
    """Address of a run's page, or None where no server shows it (then `othink ui` does)."""
    current = store(root)
    _, experiment = current.attempt("the address of a run", lambda _: current.experiment_id)
    return page(root, f"experiments/{experiment}/runs/{run_id}") if experiment else None


def hide_password(uri: str) -> str:
    """The address without a password that it may hold."""
    return re.sub(r"(://[^:/@]+):[^@/]+@", r"\1:***@", uri)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _cause(error: BaseException) -> str:
    """Why a server does not answer: the system's own word, where it lies deep in what the libraries say around it."""
    found = re.search(r"\[Errno -?\d+\] ([\w ]+)", str(error))
    return found[1] if found else first_line(error)


def _is_mlflow_trouble(error: Exception) -> bool:
    """Whether an error comes from MLflow, its database or the way to it, and not from a mistake of this code."""
    if isinstance(error, OSError):  # requests' errors are OSErrors too
        return True
    modules = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    return bool(modules & {"mlflow", "sqlalchemy", "urllib3"})
