"""`othink run`: plan, run, and the table of results at the end."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from flows import board, collector, needs, plan, project, request, run_lock, server
from flows.commands import results
from othink_mr1.errors import UserError


def run(
    profile: str | None,
    overrides: Sequence[str],
    from_step: str | None,
    only: str | None,
    force: bool,
    plan_only: bool,
    as_json: bool,
    resume_anyway: bool = False,
) -> None:
    """Run the pipeline, or say what would run.

    Raises:
        UserError: the configuration or the call is wrong, another run is at work, or a step failed.
    """
    began = time.time()
    root = project.find_root()
    if plan_only:
        _show_plan(request.prepare(root, profile, overrides, from_step, only, force, looking=True), as_json)
        return
    with running() as (root, execute):
        outcomes = execute(
            request.prepare(root, profile, overrides, from_step, only, force, resume_anyway=resume_anyway)
        )
    _show_results(root, outcomes, time.time() - began, as_json)


@contextmanager
def running() -> Iterator[tuple[Path, Callable[[request.Request], dict[str, dict[str, Any]]]]]:
    """The project's folder, and what carries a request out there and gives the outcomes; no other run is at work.

    Raises:
        UserError: another run is at work, or a tool is missing; and from the call: a step failed.
    """
    root = project.find_root()
    project.check_tools(root)
    # Handlers, not the defaults: a shell's background job ignores SIGINT, and so would all that we start.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    with run_lock.running(root) as lock:
        own = server.Server(root, lock) if project.prepare_prefect(root) else None

        def execute(wanted: request.Request) -> dict[str, dict[str, Any]]:
            needs.refuse_what_cannot_fit(wanted)
            with board.shown(root) as shown:
                shown.say(_headline(wanted))
                return _run_flow(wanted, lock, shown, own)

        yield root, execute


def _run_flow(
    wanted: request.Request, lock: run_lock.Run, shown: board.Board, own: server.Server | None
) -> dict[str, dict[str, Any]]:
    # Both are imported here, in one thread and before the flow: Prefect's threads and a first import of MLflow in
    # another one would meet half-imported packages. The server comes up meanwhile.
    with collector.paused():
        from flows.pipeline import PipelineFailedError, run_prepared
        from othink_mr1 import tracking

        store = tracking.connect(wanted.root, wanted.settings.tracking.uri, wanted.settings.tracking.experiment)
        store.tell = shown.say
        store.attempt("the connection", lambda client: None)
    if own is not None:
        own.wait()
    else:
        server.check_configured()
    try:
        return run_prepared(wanted, lock, shown)
    except PipelineFailedError as error:
        bad = [name for name, entry in error.outcomes.items() if entry["outcome"] in ("failed", "interrupted")]
        waiting = sum(entry["outcome"] == "not run" for entry in error.outcomes.values())
        again = f"`othink run{''.join(_options(wanted))}` goes on from there"
        more = f" ({len(bad)} steps ended badly, {waiting} did not run)" if len(bad) + waiting > 1 else ""
        log = f"; log: .othink/logs/{bad[0]}.log" if bad[0] in wanted.graph else ""
        raise UserError(f"{error}{more}{log}; {again}") from None


def _options(wanted: request.Request) -> list[str]:
    chosen = [f" --profile {wanted.profile}"] if wanted.profile else []
    return [*chosen, *(f" --set {text}" for text in wanted.overrides)]


def _headline(wanted: request.Request) -> str:
    actions = [step.action for name, step in wanted.steps.items() if name in wanted.graph]
    counts = f"{actions.count(plan.RUN)} of {len(actions)} stages to run, {actions.count(plan.CACHED)} up to date"
    return f"othink run{''.join(_options(wanted))}: {counts}"


def _show_plan(wanted: request.Request, as_json: bool) -> None:
    steps = [wanted.steps[name] for name in wanted.graph]
    needed = needs.trainings(wanted)
    acts = [wanted.steps[name] for name in plan.ACTS]
    if as_json:
        listed = [
            {"name": step.name, "action": step.action, "reasons": step.reasons, "needs": needed.get(step.name)}
            for step in [*steps, *acts]
        ]
        print(json.dumps({"steps": listed}, indent=1))
        return
    words = {plan.RUN: "run", plan.CACHED: "up to date", plan.OUTSIDE: "not asked for"}
    for step in [*steps, *acts]:
        print(f"{step.name:26} {words[step.action]:14} {_told(step.reasons)}".rstrip())
        if step.name in needed:
            print(f"{'':26} needs {needed[step.name]['text']}")
    for path in wanted.absent:
        print(f"note: {path} is not there; `othink run` needs it", file=sys.stderr)


def _told(reasons: list[str]) -> str:
    own = [reason for reason in reasons if not reason.startswith("follows ")]
    followed = [reason.removeprefix("follows ") for reason in reasons if reason.startswith("follows ")]
    if len(followed) > 2:
        followed = [followed[0], f"{len(followed) - 1} more"]
    return "; ".join([*own, *([f"follows {', '.join(followed)}"] if followed else [])])


def _show_results(root: Path, outcomes: dict[str, dict[str, Any]], seconds: float, as_json: bool) -> None:
    if as_json:
        found = {"seconds": round(seconds, 1), "steps": outcomes, "results": results.rows(root)}
        print(json.dumps(found | {"report": str(results.report_path(root))}, indent=1))
        return
    results.show(root, outcomes, seconds)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
