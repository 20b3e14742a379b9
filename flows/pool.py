"""A stage on a worker of a work pool: sent there, waited for, cancelled there.

The pipeline does so with the steps that `pools` in params.yaml names: whichever deployment of the flow "stage" lies in
the pool is taken.
"""

import logging
import threading
import time
from typing import Any, cast
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import flow_run, task_run
from prefect.states import Cancelled, Cancelling

from flows.execute import GRACE, StageFailedError, StageInterruptedError
from flows.run_lock import Run
from flows.stage import Done, Job, point_at_run
from othink_mr1.errors import UserError


def run_in_pool(
    pool: str, job: Job, profile: str | None, overrides: list[str], run: Run, stop: threading.Event
) -> Done:
    """Send a stage to a work pool and wait for it; a stop cancels it there.

    Raises:
        UserError: no deployment of the flow "stage" lies in the pool.
        StageInterruptedError: it was stopped.
        StageFailedError: it did not complete there.
    """
    # A new attempt needs a new key: the same key gives back the same run, even a failed one.
    key = f"{flow_run.id}/{job.name}/{task_run.run_count}"
    parameters = {
        "name": job.name,
        "parent_run_id": job.parent_run_id,
        "profile": profile,
        "overrides": overrides,
        "force": job.force,
        "resume_anyway": job.resume_anyway,
    }
    # In a synchronous task it answers at once, whatever its type says.
    sent = cast(
        FlowRun,
        run_deployment(
            _deployment_in(pool), parameters=parameters, idempotency_key=key, timeout=0, flow_run_name=job.name
        ),
    )
    run.note_pooled(job.name, str(sent.id))
    state = _wait_in_pool(sent.id, stop)
    if state is not None:
        run.forget_pooled(job.name)
    if stop.is_set() and (state is None or not state.is_completed()):
        word = "stopped" if state is not None else "was asked to stop, and has not ended yet"
        raise StageInterruptedError(f"{job.name} in pool {pool}: {word}", again=False)
    if state is None or not state.is_completed():
        # The worker may be on another machine: its last word is in the state's message.
        word = state.message if state is not None and state.message else "it did not complete"
        raise StageFailedError(f"{job.name} in pool {pool}: {word.removeprefix('Flow run encountered an exception: ')}")
    return point_at_run(job, "ran")


def cancel_left_in_pools(run: Run) -> None:
    """Cancel what runs that were killed had sent to work pools, and wait for its end: nothing runs beside it."""
    for name, flow_run_id in run.pooled.items():
        get_run_logger().info("%s: cancelling flow run %s, which an earlier run left behind", name, flow_run_id)
        if _cancel(UUID(flow_run_id)) is None:
            raise StageInterruptedError(f"{name}: flow run {flow_run_id} of an earlier run does not end; cancel it")
        run.forget_pooled(name)


def _wait_in_pool(flow_run_id: UUID, stop: threading.Event) -> State[Any] | None:
    """The state in which a flow run ended; None for one that was asked to stop and did not."""
    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(flow_run_id).state
            if state is not None and state.is_final():
                return state
            if stop.wait(1.0):
                return _cancel(flow_run_id)


def _cancel(flow_run_id: UUID) -> State[Any] | None:
    """Cancel a flow run; its worker ends the process, and the process saves what it has. None if it does not end."""
    deadline = time.monotonic() + 1.5 * GRACE
    with get_client(sync_client=True) as client:
        try:
            client.set_flow_run_state(flow_run_id, Cancelling())
            while time.monotonic() < deadline:
                state = client.read_flow_run(flow_run_id).state
                if state is not None and state.is_final():
                    return state
                time.sleep(0.5)
        except ObjectNotFound:
            return Cancelled()  # of another server, or deleted
    return None


def _deployment_in(pool: str) -> Any:
    with get_client(sync_client=True) as client:
        found = client.read_deployments(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["stage"])),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        )
    if not found:
        raise UserError(
            f"pools: no deployment of the flow 'stage' lies in work pool {pool!r}; "
            "`python -m flows.deploy` creates the pool and puts one there"
        )
    return found[0].id


logging.getLogger("prefect.deployments").setLevel(logging.WARNING)
