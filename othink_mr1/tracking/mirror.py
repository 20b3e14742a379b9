"""One stage's run in MLflow, made from the files that the stage writes, while it writes them or afterwards."""

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1 import dvc_lock, stages
from othink_mr1.dvc_lock import StageDigests
from othink_mr1.git_state import git_tags
from othink_mr1.tracking import connection, models, rows
from othink_mr1.tracking.completions import CompletionsTail, log_completions
from othink_mr1.tracking.open_runs import forget_open_run, note_open_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# MLflow's own limits of one request.
_METRICS_AT_ONCE, _PARAMS_AT_ONCE, _PARAM_LENGTH = 1000, 100, 6000

# What a person wants to open beside the curves. Weights stay out: DVC and the registry have them.
_ARTIFACTS = {
    "curves.csv",
    "log.jsonl",
    "metrics.json",
    "predictions.parquet",
    "params.yaml",
    "profile.json",
    "provenance.json",
}


class StageMirror:
    """The MLflow run of one stage.

    Every call returns soon and never raises because MLflow is away: what could not be logged is kept, goes out with
    the next call, and at the latest when the pipeline's run ends or by `log_from_files` in a later one.

    Args:
        root: the project's folder.
        stage: name of the DVC stage, such as `train@grpo_d-counting`.
        parent_run_id: the pipeline's run (None while MLflow was away when it began).
        params: the stage's settings, nested as in params.yaml.
        tags: more tags of the run.
        started: Unix seconds when the stage began, for one that is logged afterwards; a stage that begins now has
            none, and gets the commit that it runs at as tags.
    """

    def __init__(
        self,
        root: Path,
        stage: str,
        parent_run_id: str | None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        started: float | None = None,
    ) -> None:
        self.root, self.stage = root.resolve(), stage
        self.parent_run_id = parent_run_id
        self.run_id: str | None = None
        self.state = "running"
        self._store = connection.store(root)
        leaves = rows.flat(dict(params or {}))
        self.params = {rows.metric_name(key): _text(value) for key, value in leaves.items()}
        self._live = started is None
        self._started = started or time.time()
        self._tags = (git_tags(root) if self._live else {}) | dict(tags or {})
        folder = training_folder(stage)
        self._tail = rows.LogTail(self.root / folder / "log.jsonl") if folder else None
        self._completions = CompletionsTail(self.root / folder / "completions") if folder else None
        self._points: list[rows.Point] = []
        self._todo: list[tuple[str, Callable[[MlflowClient], Any]]] = [("the parameters", self._log_params)]

    @property
    def url(self) -> str | None:
        """Address of the run's page, where a server shows it."""
        return connection.run_url(self.root, self.run_id) if self.run_id else None

    @property
    def experiment_id(self) -> str:
        """Id of the experiment that the run lies in."""
        return self._store.experiment_id

    def poll(self) -> None:
        """Log what the step has written since the last call. Call it every second or so while the step runs."""
        self._read()
        self._send()

    def finish(self, state: str, outputs: StageDigests | None = None, ended: float | None = None) -> str | None:
        """Log the rest and close the run.

        Args:
            state: done, failed or interrupted.
            outputs: what DVC recorded of the stage; read from dvc.lock if it is done and they are not given.
            ended: Unix seconds when the stage ended; now if not given.

        Returns:
            The run's id, or None where MLflow is away (it is logged later).
        """
        self.state = state
        self._read(ended=True)
        self._todo.append(("the last metrics", self._send_points))
        if state == "done":
            digests = outputs or dvc_lock.read_stage(self.root, self.stage) or StageDigests()
            self._todo += self._records(digests)
        self._todo.append(("the end", functools.partial(self._close, ended=ended or time.time())))
        self._store.unfinished.append(self)
        self.catch_up()
        return self.run_id

    def catch_up(self) -> bool:
        """Log what is still missing of a finished stage; True when nothing is."""
        self._send()
        if self.state != "running" and not self._todo and self in self._store.unfinished:
            self._store.unfinished.remove(self)
        return not self._todo

    def _records(self, digests: StageDigests) -> list[tuple[str, Callable[["MlflowClient"], Any]]]:
        """What a finished stage leaves. Its digest comes last: a run that has it was logged whole."""
        bind = functools.partial
        return [
            ("the inputs", bind(models.log_inputs, self, digests)),
            ("the model", bind(models.log_model, self, digests)),
            ("the row counts", bind(models.log_row_counts, self, digests)),
            ("the scores", bind(models.log_scores, self, digests)),
            ("the artifacts", bind(self._log_artifacts, digests)),
            ("the digests", bind(self._log_digests, digests)),
        ]

    def _read(self, ended: bool = False) -> None:
        if self._tail is not None:
            now = time.time() if self._live else self._started
            new = self._tail.read(ended)
            self._points += [replace(p, time=p.time or now) for p in new]
            if any(p.name == "resumed_anyway" for p in new):
                self._todo.append(("the change of code", self._log_resume))
        for file, pictures in self._completions.read() if self._completions is not None else ():
            self._todo.append((file.name, functools.partial(self._log_completions, file, pictures)))

    def _send(self) -> None:
        """Work off what is to be logged, in order, as far as MLflow answers."""
        if self.run_id is None and not self._store.attempt(f"the run of {self.stage}", self._create)[0]:
            return
        if self.run_id is None:  # refused: there will be no run
            self._todo.clear()
            return
        while self._todo:
            what, call = self._todo[0]
            if not self._store.attempt(f"{what} of {self.stage}", call)[0]:
                return
            self._todo.pop(0)
        if self._points:
            self._store.attempt(f"metrics of {self.stage}", self._send_points)

    def _create(self, client: "MlflowClient") -> None:
        tags = {"othink.kind": "stage", "othink.stage": self.stage, "mlflow.source.name": f"dvc stage {self.stage}"}
        if self.parent_run_id:
            tags["mlflow.parentRunId"] = self.parent_run_id
        run = client.create_run(
            self._store.experiment_id, int(self._started * 1000), tags | self._tags, run_name=self.stage
        )
        self.run_id = run.info.run_id
        note_open_run(self.root, self.run_id)

    def _log_params(self, client: "MlflowClient") -> None:
        log_params(client, self._id, self.params)

    def _log_completions(self, file: Path, pictures: bool, client: "MlflowClient") -> None:
        log_completions(client, self._id, self.root, file, pictures)

    def _log_resume(self, client: "MlflowClient") -> None:
        """The run went on although its code had changed; the status file says what had."""
        status = stages.read_status(self.stage, self.root) or {}
        client.set_tag(self._id, "othink.resumed_anyway", _text(status.get("resumed_anyway", "yes")))

    def _send_points(self, client: "MlflowClient") -> None:
        from mlflow.entities import Metric

        while self._points:
            batch = self._points[:_METRICS_AT_ONCE]
            self.log_metrics(client, [Metric(p.name, p.value, self.moment(p.time), p.step) for p in batch])
            del self._points[: len(batch)]

    def log_metrics(self, client: "MlflowClient", metrics: list["Metric"]) -> None:
        """Log metrics at once. The same metric again (a request whose answer was lost) changes nothing."""
        client.log_batch(self._id, metrics=metrics, synchronous=True)

    def moment(self, seconds: float | None) -> int:
        """A time for MLflow, in milliseconds; the stage's start for what has none, so that it stays the same."""
        return int((seconds or self._started) * 1000)

    def _log_artifacts(self, digests: StageDigests, client: "MlflowClient") -> None:
        for out in digests.outs:
            path = self.root / out
            if out.startswith("models/") or not path.exists():
                continue
            if path.is_file():
                client.log_artifact(self._id, str(path))
            elif out.startswith(("tables", "data_docs", "report")):
                client.log_artifacts(self._id, str(path), artifact_path=Path(out).parts[0])
            else:
                for file in sorted(path.iterdir()):
                    if file.name in _ARTIFACTS:
                        client.log_artifact(self._id, str(file))

    def _log_digests(self, digests: StageDigests, client: "MlflowClient") -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(f"dvc.dep.{path}", md5) for path, md5 in digests.deps.items()]
        tags += [RunTag(f"dvc.out.{path}", md5) for path, md5 in digests.outs.items()]
        tags.append(RunTag("othink.outputs", digests.outputs))
        client.log_batch(self._id, tags=tags, synchronous=True)

    def _close(self, client: "MlflowClient", ended: float) -> None:
        client.set_terminated(self._id, _STATUS.get(self.state, "FAILED"), int(ended * 1000))
        forget_open_run(self.root, self._id)

    @property
    def _id(self) -> str:
        assert self.run_id is not None, "the run is created before anything is logged to it"
        return self.run_id


def log_params(client: "MlflowClient", run_id: str, params: Mapping[str, Any]) -> None:
    """Log flat parameters as text; MLflow cuts nothing itself, so a text too long for it is cut here."""
    from mlflow.entities import Param

    entries = [Param(rows.metric_name(key), _text(value)) for key, value in params.items()]
    for start in range(0, len(entries), _PARAMS_AT_ONCE):
        client.log_batch(run_id, params=entries[start : start + _PARAMS_AT_ONCE], synchronous=True)


def training_folder(stage: str) -> str | None:
    """The folder where a stage writes its log.jsonl, or None for a stage that trains nothing."""
    if stage == "base_model":
        return "training/base"
    kind, _, model = stage.partition("@")
    return f"training/{model}" if kind == "train" and model else None


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _PARAM_LENGTH else text[: _PARAM_LENGTH - 1] + "…"
