"""The runs of a pipeline: the parent's, and for each stage the one that its files were made in."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1 import dvc_lock, stages
from othink_mr1.git_state import git_tags
from othink_mr1.tracking import rows
from othink_mr1.tracking.connection import (
    run_url,
    store,
)
from othink_mr1.tracking.mirror import StageMirror, log_params
from othink_mr1.tracking.open_runs import close_abandoned_runs, forget_open_run, note_open_run

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass
class PipelineRun:
    """The parent run of one pipeline run. `run_id` is None for as long as MLflow is away."""

    root: Path
    params: dict[str, Any]
    tags: dict[str, str]
    run_id: str | None = None
    started: float = field(default_factory=time.time)
    cached: dict[str, str] = field(default_factory=dict)
    _params_logged: bool = False

    @property
    def url(self) -> str | None:
        """Address of the run's page, where a server shows it; else `othink ui` does."""
        return run_url(self.root, self.run_id) if self.run_id else None

    def point_at(self, stage: str, run_id: str) -> None:
        """Say that a cached stage was made by an earlier run."""
        self.cached[stage] = run_id

    def begin(self) -> None:
        """Create the run, if MLflow answers."""
        current = store(self.root)
        if self.run_id is None:
            current.attempt("the pipeline's run", self._create)
        if self.run_id is not None and not self._params_logged:
            self._params_logged, _ = current.attempt("the parameters", self._log_params)

    def end(self, status: str) -> None:
        """Log what is still missing, of the stages too, and close the run."""
        self.begin()
        current = store(self.root)
        for mirror in list(current.unfinished):
            mirror.parent_run_id = mirror.parent_run_id or self.run_id
            if not mirror.catch_up():
                break
        if self.run_id is None:
            return
        if status == "FINISHED":
            current.attempt("the results", self._log_results)
        current.attempt("the pipeline's stages", self._log_stages)
        current.attempt("the end of the pipeline's run", lambda client: self._close(client, status))

    def _create(self, client: "MlflowClient") -> None:
        profile = self.tags.get("othink.profile", "pipeline")
        name = f"{profile} {time.strftime('%d %b %H:%M', time.localtime(self.started))}"
        run = client.create_run(store(self.root).experiment_id, int(self.started * 1000), self.tags, run_name=name)
        self.run_id = run.info.run_id
        note_open_run(self.root, self.run_id)

    def _log_params(self, client: "MlflowClient") -> None:
        assert self.run_id is not None
        log_params(client, self.run_id, self.params)

    def _log_stages(self, client: "MlflowClient") -> None:
        assert self.run_id is not None
        client.set_tag(self.run_id, "mlflow.note.content", self._description(client))
        for stage, run_id in dict(self.cached).items():  # a stage that outlives a stop may still add itself
            # MLflow allows no @ in a tag's name.
            client.set_tag(self.run_id, f"othink.run.{stage.replace('@', '/')}", run_id)

    def _close(self, client: "MlflowClient", status: str) -> None:
        assert self.run_id is not None
        client.set_terminated(self.run_id, status)
        forget_open_run(self.root, self.run_id)

    def _log_results(self, client: "MlflowClient") -> None:
        """Every model's accuracy on the pipeline's own run too: whole pipeline runs compare in one table."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = []
        for file in sorted(self.root.glob("evaluation/*/metrics.json")):
            for task, numbers in rows.scores(json.loads(file.read_text())).items():
                if "strict/accuracy" in numbers:
                    metrics.append(Metric(f"accuracy/{task}/{file.parent.name}", numbers["strict/accuracy"], now, 0))
        client.log_batch(str(self.run_id), metrics=metrics, synchronous=True)

    def _description(self, client: "MlflowClient") -> str:
        """What the run's page says under its name: each stage with the run that made it."""
        current = store(self.root)
        query = f"tags.`mlflow.parentRunId` = '{self.run_id}'"
        children = client.search_runs([current.experiment_id], query, max_results=500, order_by=["start_time ASC"])
        rows = [(run.info.run_name, run.info.status.lower(), run.info.run_id) for run in children]
        rows += [(stage, "cached", run_id) for stage, run_id in dict(self.cached).items()]
        link = f"#/experiments/{current.experiment_id}/runs/"
        lines = [f"| {stage} | {state} | [{run_id[:8]}]({link}{run_id}) |" for stage, state, run_id in rows]
        return "\n".join(["| stage | state | run |", "|---|---|---|", *lines])


@contextmanager
def pipeline_run(root: Path, params: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[PipelineRun]:
    """The parent run around one run of the pipeline.

    Args:
        root: the project's folder.
        params: the resolved parameters, nested; `local`, what this machine alone decides, is left out.
        tags: such as `othink.profile` and `othink.flow_run`; git's are added here.

    Yields:
        The run; its `run_id` is the `parent_run_id` of the stages.
    """
    close_abandoned_runs(root)
    shared = {key: value for key, value in params.items() if key != "local"}
    all_tags = {"othink.kind": "pipeline", "mlflow.source.name": "othink run"} | git_tags(root) | dict(tags)
    run = PipelineRun(root.resolve(), rows.flat(shared), all_tags)
    run.begin()
    status = "KILLED"  # unless an Exception or a normal end says otherwise: Ctrl-C and exits end up here
    try:
        yield run
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        run.end(status)


def find_stage_run(root: Path, stage: str, outputs_digest: str | None = None) -> str | None:
    """The finished run that made a stage's present outputs, or None (also while MLflow is away).

    Args:
        root: the project's folder.
        stage: name of the DVC stage.
        outputs_digest: `StageDigests.outputs`; read from dvc.lock if not given.
    """
    if outputs_digest is None:
        digests = dvc_lock.read_stage(root, stage)
        if digests is None:
            return None
        outputs_digest = digests.outputs
    current = store(root)
    query = (
        f"tags.`othink.stage` = '{stage}' AND tags.`othink.outputs` = '{outputs_digest}' "
        "AND attributes.status = 'FINISHED'"
    )
    _, runs = current.attempt(
        f"the search for {stage}", lambda client: client.search_runs([current.experiment_id], query, max_results=1)
    )
    return runs[0].info.run_id if runs else None


def log_from_files(
    root: Path,
    stage: str,
    parent_run_id: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str | None:
    """Log a stage whose run is gone, or never came to be, from its files.

    Returns:
        The new run's id; None while MLflow is away or where the stage never ended well here.
    """
    digests = dvc_lock.read_stage(root, stage)
    if digests is None or store(root).away:
        return None
    status = stages.read_status(stage, root) or {}
    # No commit among the tags: it may be another one by now than the one that made the files.
    about = {"othink.logged": "from files"} | dict(tags or {})
    ended = status.get("ended_at") or time.time()
    mirror = StageMirror(root, stage, parent_run_id, params, about, started=status.get("started_at") or ended)
    return mirror.finish("done", digests, ended)
