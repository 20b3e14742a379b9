"""The whole chain: data, base model, training, evaluation, tables, registration, promotion, report.

`chain` is what there is to read; the rest says how a step of it becomes a Prefect task. What a step reads and writes
stands in dvc.yaml, and DVC is the one cache: a step that is up to date becomes a task that only says so.
"""

import contextlib
import contextvars
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import Task, allow_failure, flow
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows import acts
from flows.board import Board
from flows.execute import GRACE, StageFailedError, StageInterruptedError
from flows.machine import Slots
from flows.plan import CACHED, OUTSIDE
from flows.pool import cancel_left_in_pools, run_in_pool
from flows.project import find_root
from flows.request import Request, prepare
from flows.run_lock import Run, running
from flows.stage import Done, Job, point_at_run, run_mirrored, time_limit
from othink_mr1 import config, dvc_lock, stages, tracking
from othink_mr1.errors import UserError
from othink_mr1.names import METHODS, TASKS

Waiting = list[PrefectFuture[None]]
Step = Callable[..., Any]
Outcomes = dict[str, dict[str, Any]]
# Enough threads that none of the steps of the chain waits for one; `Slots` says how many run at a time.
_RUNNER: Any = ThreadPoolTaskRunner(max_workers=32)


class PipelineFailedError(UserError):
    """At least one step ended badly; the message names the first."""

    def __init__(self, message: str, outcomes: Outcomes) -> None:
        super().__init__(message)
        self.outcomes = outcomes


def chain(stage: Step, act: Step) -> None:
    """The pipeline from top to bottom. `stage` runs a DVC stage, `act` an outward act; both take what they follow."""
    parameters = stage("resolve", after=[])
    data = {task: stage(f"prepare_data@{task}", after=[parameters]) for task in TASKS}
    models = {"base": stage("base_model", after=[parameters])}
    for method in METHODS:
        for task in TASKS:
            models[f"{method}-{task}"] = stage(f"train@{method}-{task}", after=[models["base"], data[task]])
    evaluations = [stage(f"evaluate@{name}", after=[model, *data.values()]) for name, model in models.items()]
    tables = stage("tables", after=evaluations)
    candidates = {task: act(f"register@{task}", after=[tables]) for task in TASKS}
    champions = [act(f"promote@{task}", after=[candidates[task]]) for task in TASKS]
    act("report", after=[tables], ended=champions)


@flow(name="pipeline", flow_run_name="othink run", task_runner=_RUNNER, result_serializer="json")
def pipeline(
    profile: str | None = None,
    overrides: list[str] | None = None,
    from_step: str | None = None,
    only: str | None = None,
    force: bool = False,
    resume_anyway: bool = False,
) -> Outcomes:
    """Run the chain; as a deployment on a schedule, or from `othink run`, which has made the plan already.

    Args:
        profile: a profile of params.yaml; the demo if not given.
        overrides: texts such as "grpo_d.beta_max=0.2".
        from_step: begin at this step.
        only: run this step alone.
        force: run steps that are up to date, too.
        resume_anyway: training goes on from checkpoints that other code has made; the record says so.

    Returns:
        A dict a step: outcome, seconds, run_id, note.

    Raises:
        PipelineFailedError: a step failed.
        UserError: the configuration is wrong, or another run is at work.
    """
    prepared = _prepared.get()
    if prepared is not None:
        return _execute(*prepared)
    root = find_root()
    with running(root) as run:
        wanted = prepare(root, profile, overrides or [], from_step, only, force, resume_anyway=resume_anyway)
        return _execute(wanted, run, Board(root))


def run_prepared(request: Request, run: Run, board: Board) -> Outcomes:
    """Run the flow for a request that was worked out before.

    Raises:
        PipelineFailedError: a step failed.
    """
    token = _prepared.set((request, run, board))
    try:
        return pipeline(
            request.profile, list(request.overrides), force=request.force, resume_anyway=request.resume_anyway
        )
    finally:
        _prepared.reset(token)


_prepared: contextvars.ContextVar[tuple[Request, Run, Board] | None] = contextvars.ContextVar("prepared", default=None)


class Conductor:
    """Turns the steps of the chain into tasks, and gathers how they end."""

    def __init__(self, request: Request, run: Run, board: Board, parent: tracking.PipelineRun) -> None:
        self.request, self.run, self.board, self.parent = request, run, board, parent
        self.stop = threading.Event()
        self.slots = Slots(request.settings.threads, request.settings.flow.max_parallel)
        self.outcomes: Outcomes = {}
        self.futures: list[PrefectFuture[None]] = []
        self._promotions = acts.Promotions()
        self._began: dict[str, float] = {}
        # Read once: with code files as dependencies it is a long file.
        self._locked = dvc_lock.read_stages(request.root)
        self._task = Task(
            fn=self._run_step,
            name="step",
            task_run_name="{name}",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=request.settings.flow.retries,
            retry_delay_seconds=request.settings.flow.retry_delay_seconds,
            # A plain function: Prefect does not call a bound method here, and then never tries again.
            retry_condition_fn=lambda _task, _run, state: self._may_retry(state.data),
        )

    def step(self, name: str, after: Sequence[Waiting], ended: Sequence[Waiting] = ()) -> Waiting:
        """Submit a step; it begins when all of `after` ended well and all of `ended` ended somehow.

        Returns:
            What a step that follows has to wait for: for one that is not to run, what it would have waited for.
        """
        needed = [future for futures in after for future in futures]
        if self.request.steps[name].action == OUTSIDE:
            return needed
        wait_for = [*needed, *(allow_failure(future) for futures in ended for future in futures)]
        future: PrefectFuture[None] = self._task.submit(name, wait_for=wait_for)  # type: ignore[call-overload]
        self.futures.append(future)
        return [future]

    def _run_step(self, name: str) -> None:
        entry: dict[str, Any] = {"outcome": "failed", "seconds": 0.0, "run_id": None, "url": None, "note": ""}
        self._began[name] = time.monotonic()
        try:
            if self.stop.is_set():
                raise StageInterruptedError(f"{name}: stopped before it began", again=False)
            entry |= self._stage(name) if name in self.request.graph else self._act(name)
        except StageInterruptedError as error:
            entry |= {"outcome": "interrupted", "note": str(error)}
            raise
        except Exception as error:
            entry["note"] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - self._began[name], 2)
            self.outcomes[name] = entry
            self.board.end(name, entry["outcome"], entry["seconds"], entry["note"])

    def _stage(self, name: str) -> dict[str, Any]:
        settings = self.request.settings
        limit = time_limit(settings.flow.time_limit, name)
        wanted = self.request
        job = Job(wanted.root, name, wanted.params, self.parent.run_id, wanted.force, wanted.resume_anyway, limit)
        if self.request.steps[name].action == CACHED:
            done = point_at_run(job, "cached", self._locked.get(name))
        else:
            done = self._run(job, settings.pools.get(name.partition("@")[0]))
        if done.outcome != "ran" and done.run_id:
            self.parent.point_at(name, done.run_id)
        return asdict(done)

    def _run(self, job: Job, pool: str | None) -> Done:
        if pool is not None:
            self._begin(job.name)
            return run_in_pool(pool, job, self.request.profile, list(self.request.overrides), self.run, self.stop)
        with self.slots.take() as environment:
            self._begin(job.name)
            return run_mirrored(job, self.run, self.stop, environment)

    def _act(self, name: str) -> dict[str, Any]:
        self._begin(name)
        note = acts.perform(name, self.request, self._promotions)
        get_run_logger().info("%s", note)
        return {"outcome": "done", "note": note}

    def _begin(self, name: str) -> None:
        """The step runs from now on; until here it waited for a place."""
        self._began[name] = time.monotonic()
        self.board.begin(name)

    def _may_retry(self, error: Any) -> bool:
        """A user's mistake stays one; what was interrupted or failed otherwise may go better."""
        if self.stop.is_set():
            return False
        return error.again if isinstance(error, StageFailedError) else not isinstance(error, UserError)


def _execute(request: Request, run: Run, board: Board) -> Outcomes:
    root, settings = request.root, request.settings
    # Prefect's handlers would keep a warning off the terminal.
    tracking.connect(root, settings.tracking.uri, settings.tracking.experiment).tell = board.say
    cancel_left_in_pools(run)
    config.write_selection(root, request.profile, request.overrides)
    tags = {"othink.profile": request.profile or config.DEFAULT_PROFILE, "othink.flow_run": str(flow_run.id)}
    with tracking.pipeline_run(root, request.params, tags) as parent:
        conductor = Conductor(request, run, board, parent)
        try:
            chain(conductor.step, conductor.step)
            wait(conductor.futures)
        except BaseException:
            # Stopped: the steps save what they have before MLflow's run is closed over them.
            conductor.stop.set()
            wait(conductor.futures, timeout=2 * GRACE)
            raise
        outcomes = _in_order(conductor)
        _remember_runs(root, outcomes)
        bad = [entry for entry in outcomes.values() if entry["outcome"] in ("failed", "interrupted")]
        if bad:
            raise PipelineFailedError(bad[0]["note"], outcomes)
    return outcomes


def _in_order(conductor: Conductor) -> Outcomes:
    """The outcomes in the chain's order; a step that waited for one that failed was not run."""
    not_run = {"outcome": "not run", "seconds": 0.0, "run_id": None, "url": None, "note": ""}
    wanted = [name for name, step in conductor.request.steps.items() if step.action != OUTSIDE]
    return {name: conductor.outcomes.get(name, not_run) for name in wanted}


def _remember_runs(root: Path, outcomes: Outcomes) -> None:
    """Note each stage's MLflow run in a file, so that `othink status` need not ask MLflow."""
    path = root / stages.WORK / "stage_runs.json"
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text())
    known |= {
        name: {key: entry[key] for key in ("run_id", "url")} for name, entry in outcomes.items() if entry["run_id"]
    }
    stages.write_whole(path, json.dumps(known, indent=1) + "\n")
