"""One self-contained HTML file out of the project's results: no network, no script, every text escaped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from othink_mr1.errors import UserError
from othink_mr1.evaluation.curves import read_all
from othink_mr1.evaluation.tables import NAMES
from othink_mr1.names import METHODS, TASKS
from othink_mr1.report import wording
from othink_mr1.report.charts import panels
from othink_mr1.report.content import SideBySide, TaskData, side_by_side, task_data
from othink_mr1.report.facts import gather
from othink_mr1.stages import WORK, write_whole

MAX_BYTES = 5 * 10**6
_TEMPLATES = Path(__file__).with_name("templates")


def report_path(root: Path = Path()) -> Path:
    """Where the report of the project at `root` lies."""
    return root / WORK / "report" / "index.html"


def gates_path(root: Path = Path()) -> Path:
    """Where the outcome of promotion is kept, for a report that is built again later."""
    return root / WORK / "report" / "gates.json"


def read_results(root: Path = Path()) -> dict[str, Any]:
    """tables/results.json.

    Raises:
        UserError: it is missing or broken.
    """
    path = root / "tables" / "results.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path}: there is no such file; `othink run` makes the results that a report shows") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); delete it and run `othink run --only tables`") from None
    if not isinstance(found, dict) or "same_task" not in found:
        raise UserError(f"{path}: same_task is missing; the file was not written by steps.tables")
    return found


def build(root: Path = Path(), gates: Mapping[str, Any] | None = None) -> Path:
    """Write the report of the project at `root` and return its path.

    Args:
        gates: what promotion decided: task -> `{"candidate", "version", "promoted", "reason", "gates": [{"name",
            "passed", "detail"}]}`. It is kept beside the report; without it the last one kept is shown.

    Raises:
        UserError: results, data or predictions are missing.
    """
    root = Path(root)
    results = read_results(root)
    if gates is not None:
        write_whole(gates_path(root), json.dumps(gates, indent=1, default=str) + "\n")
    else:
        gates = _kept_gates(root)
    page = _render(root, results, gates)
    if len(page.encode()) > MAX_BYTES:
        raise RuntimeError(f"the report has {len(page.encode())} bytes, more than {MAX_BYTES}")
    path = report_path(root)
    write_whole(path, page)
    return path


def _render(root: Path, results: Mapping[str, Any], gates: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": wording.percent, "points": wording.points}
    curves = read_all(root / "training")
    data: dict[str, TaskData] = {task: task_data(root, task) for task in TASKS}
    sides: dict[str, SideBySide] = {task: side_by_side(root, task) for task in TASKS}
    return environment.get_template("report.html.jinja").render(
        style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),  # ours, and CSS must not be escaped
        results=results,
        tasks=TASKS,
        methods=METHODS,
        names=NAMES,
        rows=_by_task(results),
        headline=wording.headline(results),
        verdicts={
            kind: {task: wording.verdicts(results, kind, task) for task in TASKS}
            for kind in ("same-task", "cross-task")
        },
        improvable_note=wording.improvable_note() if results["improvable_base"] else "",
        curves={task: panels(curves, task) for task in TASKS},
        data=data,
        sides=sides,
        gates=gates,
        facts=gather(root),
    )


def _by_task(results: Mapping[str, Any]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """kind -> task -> rows, the base's direct prompt last among the base's."""
    kinds = {"same-task": "same_task", "cross-task": "cross_task"}
    return {
        kind: {
            task: sorted(
                (row for row in results[key] if row["task"] == task),
                key=lambda row: (("base", *METHODS).index(row["method"]), row["prompt_kind"] == "direct"),
            )
            for task in TASKS
        }
        for kind, key in kinds.items()
    }


def _kept_gates(root: Path) -> dict[str, Any]:
    try:
        kept = json.loads(gates_path(root).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
