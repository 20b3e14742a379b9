"""A reward for models that have learned nothing: it differs between their completions."""

from typing import Any


def differs(completions: list[str], solutions: list[str], **columns: Any) -> list[float]:
    """Between 0 and 1, by the letters of a completion."""
    return [sum(map(ord, text)) % 7 / 6 for text in completions]
