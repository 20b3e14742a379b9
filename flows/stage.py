"""One DVC stage as one Prefect task, here or on a worker of a pool, mirrored to MLflow while it runs.

`stage` is the flow that a work pool's deployment runs (prefect.yaml); flows/pool.py sends it there.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run, task_run

from flows import lockfile, request
from flows.execute import StageFailedError, Watch, run_stage
from flows.project import find_root
from flows.run_lock import Run
from othink_mr1 import config, stages, tracking
from othink_mr1.dvc_lock import StageDigests

# Seconds between two looks at a step's log for MLflow.
_MIRROR_EVERY = 2.0


@dataclass(frozen=True)
class Job:
    """One stage to run, by whom and for which pipeline run."""

    root: Path
    name: str
    params: dict[str, Any]
    parent_run_id: str | None
    force: bool = False
    resume_anyway: bool = False
    time_limit: float | None = None


@dataclass(frozen=True)
class Done:
    """How a stage ended well: ran, restored or cached, and the MLflow run that made its outputs."""

    outcome: str
    run_id: str | None
    url: str | None


def run_mirrored(job: Job, run: Run, stop: threading.Event, environment: dict[str, str] | None = None) -> Done:
    """Run a stage and mirror what it writes to MLflow.

    Raises:
        StageFailedError: see `execute.run_stage`.
    """
    log = get_run_logger()
    if job.resume_anyway:
        environment = {**(environment or {}), "OTHINK_RESUME_ANYWAY": "1"}
    mirror = _Mirror(job)
    watch = Watch(line=log.info, tick=mirror.tick)
    state = "interrupted"
    try:
        outcome = run_stage(job.root, job.name, run, stop, job.force, job.time_limit, environment, watch)
        state = "done"
    except StageFailedError as error:
        state = "interrupted" if (stages.read_status(job.name, job.root) or {}).get("state") != "failed" else "failed"
        log.error("%s", error)
        raise
    finally:
        mirror.finish(state)
    if mirror.run_id is None:
        return point_at_run(job, outcome)
    return _linked(job, outcome, mirror.run_id)


def point_at_run(job: Job, outcome: str, made: StageDigests | None = None) -> Done:
    """The MLflow run that made what the stage has; where it is gone the stage is logged again from its files.

    Args:
        job: the stage.
        outcome: how it ended.
        made: what dvc.lock holds of the stage, where that was read already.
    """
    made = made or lockfile.digests(job.root, job.name)
    run_id = tracking.find_stage_run(job.root, job.name, made.outputs) if made is not None else None
    if run_id is None:
        settings = request.stage_params(job.name, job.params)
        run_id = tracking.log_from_files(job.root, job.name, job.parent_run_id, settings)
    return _linked(job, outcome, run_id)


@flow(name="stage", flow_run_name="{name}", result_serializer="json")
def stage(
    name: str,
    parent_run_id: str | None = None,
    profile: str | None = None,
    overrides: list[str] | None = None,
    force: bool = False,
    resume_anyway: bool = False,
) -> dict[str, str | None]:
    """Run one DVC stage on this worker, in the project folder that the worker works in.

    Args:
        name: the stage, such as "train@grpo_d-counting".
        parent_run_id: the MLflow run of the pipeline that it belongs to.
        profile: the profile of that pipeline run; with `overrides` it says which parameters are in force.
        overrides: its `--set` texts.
        force: run it even if it is up to date.
        resume_anyway: go on from a checkpoint that other code has made.

    Returns:
        outcome ("ran", "restored" or "cached"), run_id and url of the MLflow run.

    Raises:
        StageFailedError: the stage failed; the message is the step's own line.
    """
    root = find_root()
    settings = config.load(root, profile, overrides or ())
    tracking.connect(root, settings.tracking.uri, settings.tracking.experiment)
    # A cancelled flow run gets SIGTERM, which Prefect's own handler turns into an exception here, in `run_stage`, which
    # then ends the step. A handler of ours would make Prefect take the cancelled run for a crashed one.
    run, never = Run(root), threading.Event()
    params = _ensure_params(root, profile, list(overrides or ()), run, never)
    limit = time_limit(settings.flow.time_limit, name)
    done = run_mirrored(Job(root, name, params, parent_run_id, force, resume_anyway, limit), run, never)
    return {"outcome": done.outcome, "run_id": done.run_id, "url": done.url}


def time_limit(limits: dict[str, float], name: str) -> float | None:
    """Seconds that a stage may take, from `flow.time_limit` (minutes, by the name before the "@")."""
    minutes = limits.get(name.partition("@")[0])
    return None if minutes is None else minutes * 60


class _Mirror:
    """The stage's run in MLflow, opened once the step itself begins: a stage that DVC skips has none."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._began = time.time()
        self._last = 0.0
        self._mirror: tracking.StageMirror | None = None

    @property
    def run_id(self) -> str | None:
        return self._mirror.run_id if self._mirror is not None else None

    def tick(self) -> None:
        if time.monotonic() - self._last < _MIRROR_EVERY:
            return
        self._last = time.monotonic()
        if self._mirror is None and not self._open():
            return
        if self._mirror is not None:
            self._mirror.poll()

    def finish(self, state: str) -> None:
        if self._mirror is None:
            self._open()  # it was over before the first look
        if self._mirror is not None:
            outputs = lockfile.digests(self._job.root, self._job.name) if state == "done" else None
            self._mirror.finish(state, outputs)

    def _open(self) -> bool:
        status = stages.read_status(self._job.name, self._job.root) or {}
        if status.get("started_at", 0) < self._began:
            return False
        tags = {"othink.flow_run": str(flow_run.id or ""), "othink.task_run": str(task_run.id or "")}
        settings = request.stage_params(self._job.name, self._job.params)
        self._mirror = tracking.StageMirror(self._job.root, self._job.name, self._job.parent_run_id, settings, tags)
        return True


def _linked(job: Job, outcome: str, run_id: str | None) -> Done:
    log = get_run_logger()
    url = tracking.run_url(job.root, run_id) if run_id else None
    log.info("%s: %s; MLflow run %s %s", job.name, outcome, run_id or "none", url or "(`othink ui` shows it)")
    if url:
        key = "mlflow-" + job.name.lower().replace("@", "-").replace("_", "-")
        create_link_artifact(link=url, link_text=f"MLflow run of {job.name}", key=key)
    return Done(outcome, run_id, url)


def _ensure_params(
    root: Path, profile: str | None, overrides: list[str], run: Run, stop: threading.Event
) -> dict[str, Any]:
    """Put the pipeline's parameters in force in this folder, where they are not (a worker with its own clone)."""
    wanted = request.prepare(root, profile, overrides, only="resolve")
    if wanted.steps["resolve"].action == "run":
        config.write_selection(root, profile, overrides)
        run_stage(root, "resolve", run, stop)
    return wanted.params
