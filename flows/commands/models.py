"""`othink models`: the registered versions."""

import json
import time
from dataclasses import asdict
from typing import Any

from flows.commands.registered import connected
from othink_mr1 import registry
from othink_mr1.names import TASKS


def models(task: str | None, as_json: bool) -> None:
    """Print the versions of one task's model, or of both, the newest first.

    Raises:
        UserError: no such task; MLflow does not answer.
    """
    root, _ = connected()
    found = [entry for name in ([task] if task else TASKS) for entry in registry.versions(root, name)]
    if as_json:
        print(json.dumps([_row(entry) for entry in found], indent=1))
    elif found:
        _print_table(found)
    else:
        print("no model is registered yet; `othink run` registers one a task")


def _row(entry: registry.Version) -> dict[str, Any]:
    return {"name": entry.name, **asdict(entry), "method": entry.method}


def _print_table(found: list[registry.Version]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("model", "version", "aliases", "method", "same task", "cross task", "gates", "registered"):
        table.add_column(column)
    for entry in found:
        against = entry.tags.get("gates.against", "")
        gates = entry.tags.get("gates", "not asked")
        if against:
            gates += f" against {'the base' if against == 'base' else f'version {against}'}"
        if "othink.rolled_back" in entry.tags:
            gates += ", rolled back"
        table.add_row(
            entry.name,
            str(entry.version),
            ", ".join(entry.aliases),
            entry.method,
            _percent(entry.tags.get("accuracy.same_task")),
            _percent(entry.tags.get("accuracy.cross_task")),
            gates,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created)),
        )
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def _percent(share: str | None) -> str:
    return f"{100 * float(share):.1f}%" if share else ""
