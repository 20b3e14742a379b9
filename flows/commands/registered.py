"""What the commands about registered models share: the settings in force, and the connection to MLflow."""

import json
from pathlib import Path
from typing import Any

from flows.project import find_root
from othink_mr1 import config, tracking
from othink_mr1.settings import Config


def connected() -> tuple[Path, Config]:
    """The project's folder and the settings of its last run; MLflow is where those say.

    Raises:
        UserError: not inside the project, or the settings are wrong.
    """
    root = find_root()
    settings = config.load(root, *config.read_selection(root))
    tracking.connect(root, settings.tracking.uri, settings.tracking.experiment)
    return root, settings


def print_promotion(decided: Any, as_json: bool) -> None:
    """Print how a promotion or rollback came out: the gates one a line, then the outcome."""
    if as_json:
        print(json.dumps(decided.as_dict(), indent=1))
        return
    for gate in decided.gates:
        print(f"{'passed' if gate.passed else 'FAILED'}  {gate.name}: {gate.says}")
    if decided.outcome != "refused":
        print(f"{decided.task}: {decided.says}")
