"""What a row has to be like, alone (`examine`) and beside the others (`settle`).

A row that fails is put aside with its reason, never dropped in silence: accepted + quarantined = read. Test rows are
what a result is measured on, so where a model can be asked at all they stay, and what is wrong with them is reported.

| reason | rows |
|---|---|
| line_not_json, row_not_object | the line could not be read |
| picture_missing, picture_outside | no file, or one outside the data's folder |
| picture_unreadable, picture_truncated, picture_too_large, picture_too_small, picture_too_long | see `pictures` |
| question_missing, question_too_long* | |
| answer_missing, answer_not_a_count*, answer_contradicts_solution | |
| answer_unreadable* | no number as `answers.read` knows it: no completion could be held against it |
| special_tokens | chat or vision tokens inside a text: they would break the prompt |
| text_not_unicode | a text that cannot be written as UTF-8 |
| duplicate*, conflict* | the same picture and question again: with the same answer, with another one |
| leaks_from_test, leaks_from_validation | a train (or validation) row that is in that split too |

Those with a star stay in a test split and are reported. Leaks stay, reported, where the two splits were given the very
same data on purpose.
"""

import math
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from othink_mr1.answers import read
from othink_mr1.data.pictures import RowError, read_picture
from othink_mr1.data.schema import sample_id
from othink_mr1.data.solutions import answer_of, solution_of

KEPT_IN_TEST = ("question_too_long", "answer_not_a_count", "answer_unreadable", "duplicate", "conflict")
MOST_CHARACTERS = 4000  # of a question: longer ones do not fit into a prompt
_SPECIAL = re.compile(r"<\|[^<>|\s]+\|>")  # <|im_end|>, <|image_pad|>, <|vision_start|>, ...
_COUNT = re.compile(r"[0-9]{1,18}")
_MOST_KEPT_BYTES = 8_000_000  # of a quarantined picture


@dataclass(frozen=True)
class RawRow:
    """A row as its source gave it, unchecked. `failure`: (reason, detail) of why it could not even be read."""

    split: str
    source: str
    picture: bytes | None = None
    problem: Any = None
    answer: Any = None
    solution: Any = None
    thinking: Any = None
    failure: tuple[str, str] | None = None


@dataclass(frozen=True)
class Accepted:
    """A row in the form of `schema.SCHEMA`, and what the checks between rows need to know of it."""

    row: dict[str, Any]
    pixels_sha256: str
    width: int
    height: int
    encoded_anew: bool
    reported: tuple[tuple[str, str], ...] = ()  # (reason, detail) of what is wrong with a test row


@dataclass(frozen=True)
class Quarantined:
    """A row in the form of `schema.QUARANTINE_SCHEMA`."""

    row: dict[str, Any]


def examine(raw: RawRow, task: str) -> Accepted | Quarantined:
    """Checks one row by itself."""
    reported: list[tuple[str, str]] = []

    def complain(reason: str, detail: str) -> None:
        if raw.split != "test" or reason not in KEPT_IN_TEST:
            raise RowError(reason, detail)
        reported.append((reason, detail))

    try:
        if raw.failure is not None:
            raise RowError(*raw.failure)
        problem = _text(raw.problem, "question_missing")
        if len(problem) > MOST_CHARACTERS:
            complain("question_too_long", f"{len(problem)} characters; at most {MOST_CHARACTERS}")
        answer = _answer(raw)
        if task == "counting" and not _COUNT.fullmatch(answer):
            complain("answer_not_a_count", f"{answer[:60]!r}; a whole number such as 3")
        elif read(answer, task) is None:  # a reward for it would stop the training
            complain("answer_unreadable", f"{answer[:60]!r}; a number, with its unit or without")
        thinking = _without_tags(raw.thinking)
        _check_texts(problem, answer, thinking)
        picture = read_picture(raw.picture or b"")
    except RowError as why:
        return Quarantined(_quarantine_row(raw, task, why.reason, why.detail))
    row = {
        "sample_id": sample_id(task, picture.pixels_sha256, problem, answer),
        "task": task,
        "split": raw.split,
        "source": raw.source,
        "image": {"bytes": picture.encoded, "path": None},
        "problem": problem,
        "solution": solution_of(answer),
        "answer": answer,
        "thinking": thinking,
    }
    return Accepted(row, picture.pixels_sha256, picture.width, picture.height, picture.encoded_anew, tuple(reported))


def _text(value: Any, reason: str) -> str:
    if not isinstance(value, str):
        raise RowError(reason, "there is none" if value is None else f"{_shown(value)} is no text")
    if not value.strip():
        raise RowError(reason, "it is empty")
    return value.strip()


def _answer(raw: RawRow) -> str:
    """The answer as text, from whichever of answer and solution the row has."""
    given = [value for value in (raw.answer, raw.solution) if value is not None]
    if not given:
        raise RowError("answer_missing", "there is none")
    answers = [_one_answer(value) for value in given]
    if len(set(answers)) > 1:
        raise RowError("answer_contradicts_solution", f"{answers[0][:60]!r} and {answers[1][:60]!r}")
    return answers[0]


def _one_answer(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("answer_missing", f"{value} is no answer")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    answer = answer_of(_text(value, "answer_missing"))
    return _text(answer, "answer_missing")


def _without_tags(thinking: Any) -> str:
    """A thinking text without the `<think>` tags that some datasets put about it; empty where there is none."""
    if not isinstance(thinking, str):
        return ""
    return thinking.strip().removeprefix("<think>").removesuffix("</think>").strip()


def _check_texts(*texts: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RowError("text_not_unicode", f"half a character in {_shown(text)}") from None
        token = _SPECIAL.search(text)
        if token:
            raise RowError("special_tokens", f"{token.group()} in {_shown(text)}")


def _shown(value: Any) -> str:
    """A value for a message: plain ASCII, at most 60 characters of it."""
    return ascii(value)[:60]


def _quarantine_row(raw: RawRow, task: str, reason: str, detail: str) -> dict[str, Any]:
    picture = raw.picture if raw.picture is not None and len(raw.picture) <= _MOST_KEPT_BYTES else None
    return {
        "task": task,
        "split": raw.split,
        "source": raw.source,
        "reason": reason,
        "detail": printable(detail),
        "image": {"bytes": picture, "path": None},
        "problem": printable(raw.problem),
        "answer": printable(raw.answer if raw.answer is not None else raw.solution),
    }


def printable(value: Any) -> str | None:
    """Any value as text that can be stored, cut to a length that fits."""
    if value is None:
        return None
    return str(value)[:MOST_CHARACTERS].encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Entry:
    """What `settle` knows of an accepted row."""

    split: str
    position: int  # the row's number among the accepted ones of its split
    sample_id: str
    pixels_sha256: str
    problem: str
    answer: str
    source: str

    @property
    def asks(self) -> tuple[str, str]:
        """What makes two rows the same question: the pixels and the words, whatever the space between them."""
        return self.pixels_sha256, " ".join(self.problem.split())


@dataclass
class Verdict:
    """`rejected`: (split, position) to (reason, detail). `reported`: the same for rows that stay all the same."""

    rejected: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    reported: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)


def settle(entries: Mapping[str, Iterable[Entry]], same_content: Container[tuple[str, str]] = ()) -> Verdict:
    """Checks the rows against each other: repeats within a split, and rows that leak from one split into another.

    Test is the one that stays whole: what is in test too leaves validation and train, what is in validation too leaves
    train. Only the first row of a repeat stays; where the same question has several answers none does.

    Args:
        entries: the accepted rows of each split.
        same_content: pairs such as ("train", "test") that were given the very same data on purpose, for which nothing
            would be left: their rows stay, and each is reported.
    """
    verdict = Verdict()
    before: dict[tuple[str, str], Entry] = {}
    for split in ("test", "validation", "train"):
        same: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in entries.get(split, ()):
            same[entry.asks].append(entry)
        found = verdict.reported if split == "test" else verdict.rejected
        for asks, group in same.items():
            if asks in before:
                first = before[asks]
                leaks = verdict.reported if (split, first.split) in same_content else verdict.rejected
                for entry in group:
                    leaks[split, entry.position] = (f"leaks_from_{first.split}", f"it is {first.source}")
            elif len({entry.answer for entry in group}) > 1:
                answers = ", ".join(sorted({ascii(entry.answer)[:30] for entry in group})[:5])
                for entry in group:
                    found[split, entry.position] = ("conflict", f"the same picture and question with {answers}")
            else:
                for entry in group[1:]:
                    found[split, entry.position] = ("duplicate", f"of {group[0].source}")
        for asks, group in same.items():
            before.setdefault(asks, group[0])
    return verdict
