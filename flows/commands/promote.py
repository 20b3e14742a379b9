"""`othink promote`: the champion is moved if the gates pass."""

from flows.commands.registered import connected, print_promotion
from flows.promotion import promote as decide
from othink_mr1.errors import UserError


def promote(task: str, version: str | None, new_test_set: bool, as_json: bool) -> None:
    """Ask the gates and print their answers; without a version, about the candidate.

    Raises:
        UserError: a gate did not pass; no such version; the test set has changed; MLflow does not answer.
    """
    root, settings = connected()
    decided = decide(root, settings, task, version, new_test_set)
    print_promotion(decided, as_json)
    if decided.outcome == "refused":
        raise UserError(f"{task}: {decided.says}")
