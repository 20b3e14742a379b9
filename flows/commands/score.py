"""`othink score`: scores finished completions of any engine."""

import json
from pathlib import Path

from othink_mr1.evaluation.score import score_file


def score(file: Path, task: str, protocol: str = "strict", as_json: bool = False) -> None:
    """Print the accuracy of the completions in a JSONL file.

    Args:
        file: a JSON object a line, with the texts `completion` and `solution`.
        task: counting or geometry.
        protocol: strict or r1v.
        as_json: print `{"n", "correct", "accuracy", "format_accuracy", "ci95"}` and nothing else.

    Raises:
        UserError: the file, a line of it, the task or the protocol is not right.
    """
    found = score_file(Path(file), task, protocol)
    if as_json:
        print(json.dumps(found))
        return
    low, high = found["ci95"]
    print(f"{found['correct']} of {found['n']} right: {100 * found['accuracy']:.1f}% ({protocol})")
    print(f"95% interval {100 * low:.1f}% to {100 * high:.1f}%; well formed {100 * found['format_accuracy']:.1f}%")
