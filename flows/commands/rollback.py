"""`othink rollback`: the champion before is put back."""

from flows.commands.registered import connected, print_promotion
from flows.promotion import rollback as put_back


def rollback(task: str, as_json: bool) -> None:
    """Put the last champion back and print which one it is.

    Raises:
        UserError: there is no champion, or none was before it; MLflow does not answer.
    """
    root, _ = connected()
    print_promotion(put_back(root, task), as_json)
