"""Completions kept as they come, so that an evaluation that was killed goes on where it was.

One finished batch a line. Batches do not depend on each other, so the ones that are read back and the ones that are
answered after a kill are together what an undisturbed run would have written.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from othink_mr1.grpo.rollout import Completion


class Journal:
    """The batches in the file at `path`; what follows the last whole line is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, list[tuple[str, int, bool]]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            whole = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    batch = json.loads(line)
                    self._found[batch["batch"]] = [(text, tokens, clipped) for text, tokens, clipped in batch["rows"]]
                except (ValueError, KeyError, TypeError):
                    break
                whole += len(line)
            file.truncate(whole)

    def batch(self, name: str) -> "list[Completion] | None":
        """The completions of a batch, or None if it was not answered yet."""
        from othink_mr1.grpo.rollout import Completion

        found = self._found.get(name)
        return None if found is None else [Completion(*row) for row in found]

    def add(self, name: str, completions: "Sequence[Completion]") -> None:
        """Keep the completions of a batch; they are on the disk when this returns."""
        rows = [(found.text, found.token_count, found.clipped) for found in completions]
        with self._path.open("ab") as file:
            file.write(json.dumps({"batch": name, "rows": rows}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
