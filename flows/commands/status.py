"""`othink status`: how each step stands."""

import json
from pathlib import Path
from typing import Any

from flows import plan, request
from flows.project import find_root
from flows.run_lock import living_run
from othink_mr1 import config, stages


def status(as_json: bool) -> None:
    """Print each step's state, duration and MLflow run.

    Raises:
        UserError: not inside the project, or its files cannot be read.
    """
    root = find_root()
    found = gather(root)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    profile, overrides = config.read_selection(root)
    print(f"profile {profile or config.DEFAULT_PROFILE}" + "".join(f" --set {text}" for text in overrides))
    if found["run"]:
        print(f"a run is at work (process {found['run']})")
    for step in found["steps"]:
        seconds = f"{step['seconds']:8.1f} s" if step["seconds"] is not None else " " * 10
        print(
            f"{step['name']:26} {step['state']:11} {seconds}  {(step['run_id'] or '')[:8]:8}  {step['note']}".rstrip()
        )


def gather(root: Path) -> dict[str, Any]:
    """The steps as dicts of name, state, note, seconds, run_id and url; `run`, the pid of a run at work or None.

    A state is done, stale (the note says what changed), running, failed, interrupted or never ran.
    """
    profile, overrides = config.read_selection(root)
    wanted = request.prepare(root, profile, overrides, looking=True)
    runs = _known_runs(root)
    steps = [_step(root, node, wanted.steps[name], runs.get(name, {})) for name, node in wanted.graph.items()]
    return {"run": living_run(root), "steps": steps}


def _step(root: Path, node: plan.Node, planned: plan.StepPlan, run: dict[str, Any]) -> dict[str, Any]:
    last = stages.read_status(node.name, root) or {}
    reasons = "; ".join(planned.reasons)
    state, note = "done", ""
    if last.get("state") == "running":
        progress = last.get("progress") or {}
        state, note = (
            "running",
            f"{progress.get('what', '')} {progress.get('done', 0)}/{progress.get('total', 0)}".strip(),
        )
    elif planned.action == plan.RUN:
        if last.get("state") in ("failed", "interrupted"):
            state, note = last["state"], last.get("message") or "killed"
        else:
            state, note = ("stale" if node.ran else "never ran"), reasons if node.ran else ""
    begin, end = last.get("started_at"), last.get("ended_at")
    seconds = round(end - begin, 1) if begin is not None and end is not None and end >= begin else None
    made = run if state == "done" else {}
    return {
        "name": node.name,
        "state": state,
        "note": note,
        "seconds": seconds,
        "run_id": made.get("run_id"),
        "url": made.get("url"),
    }


def _known_runs(root: Path) -> dict[str, Any]:
    try:
        known = json.loads((root / stages.WORK / "stage_runs.json").read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
