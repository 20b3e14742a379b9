"""What follows the last DVC stage: outward acts, which write to the registry and to the report."""

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

from flows.request import Request
from othink_mr1.tracking.connection import StoreAwayError

_UNDONE = {"register": "not registered", "promote": "not promoted", "report": "not reported"}


class Promotions:
    """What promotion decided in this run, for the report."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._found: dict[str, dict[str, Any]] = {}

    def add(self, task: str, decision: dict[str, Any]) -> None:
        """Keep the decision on a task."""
        with self._guard:
            self._found[task] = decision

    @property
    def empty(self) -> bool:
        """Whether nothing was decided."""
        return not self._found

    def over(self, earlier: dict[str, Any]) -> dict[str, Any]:
        """The decisions of this run over those of earlier ones."""
        with self._guard:
            return {**earlier, **self._found}


def perform(name: str, request: Request, promotions: Promotions) -> str:
    """Do one act and say in a line how it came out. Doing it again changes nothing.

    Raises:
        StoreAwayError: MLflow does not answer; the message begins with what was not done.
        UserError: what it needs is missing.
    """
    kind, _, task = name.partition("@")
    try:
        match kind:
            case "register":
                return _register(request, task)
            case "promote":
                return _promote(request, task, promotions)
            case _:
                return _report(request.root, promotions)
    except StoreAwayError as error:
        raise StoreAwayError(f"{task or name}: {_UNDONE[kind]}: {error}") from None


def _register(request: Request, task: str) -> str:
    from flows import promotion

    entry = promotion.register_candidate(request.root, request.settings, task, params=request.params)
    return f"{entry.name} version {entry.version} ({entry.method})"


def _promote(request: Request, task: str, promotions: Promotions) -> str:
    from flows import promotion

    decided = promotion.promote(request.root, request.settings, task, only_new=True)
    if decided.outcome == "unchanged":
        return decided.says
    gates = [{"name": gate.name, "passed": gate.passed, "detail": gate.says} for gate in decided.gates]
    promotions.add(
        task,
        {
            "candidate": f"{decided.method}-{task}",
            "version": decided.version,
            "promoted": decided.outcome != "refused",
            "reason": decided.says,
            "gates": gates,
        },
    )
    return decided.says


def _report(root: Path, promotions: Promotions) -> str:
    from prefect.artifacts import create_markdown_artifact

    from flows.commands.report import is_stale
    from othink_mr1.report.build import build, gates_path, read_results, report_path
    from othink_mr1.report.facts import gather
    from othink_mr1.report.wording import summary_markdown

    earlier: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        earlier = json.loads(gates_path(root).read_text())
    decided = promotions.over(earlier)
    if not promotions.empty or is_stale(root):
        build(root, decided)
    create_markdown_artifact(summary_markdown(read_results(root), gather(root), decided), key="summary")
    return str(report_path(root))
