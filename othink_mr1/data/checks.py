"""What a row has to be like by itself. (`settling` looks at the rows beside each other.)

A row that fails is put aside with its reason, never dropped in silence: accepted + quarantined = read. Test rows are
what a result is measured on, so where a model can be asked at all they stay, and what is wrong with them is reported.

| reason | rows |
|---|---|
| line_not_json, row_not_object, row_not_csv, not_in_metadata, value_unreadable | the row itself could not be read |
| picture_missing, picture_outside | no file, or one outside the data's folder (for the hub: what was fetched from it) |
| picture_unreadable, picture_truncated, picture_too_large, picture_too_small, picture_too_long | see `pictures` |
| question_missing, question_too_long* | |
| question_not_a_count* | counting: a question for something else, see below |
| answer_missing* | |
| answer_contradicts_solution* | a test row keeps the answer |
| answer_not_a_count* | counting: anything but a whole number in digits |
| answer_unreadable* | `answers` cannot read it back from a completion as equal to itself: nothing could score |
| special_tokens* | chat or vision tokens inside a text would break the prompt; in a test row they are spelled apart |
| answer_tags* | `<think>`, `</think>`, `<answer>`, `</answer>` in a question or thinking; in a test row spelled apart |
| thinking_too_long* | |
| text_not_unicode* | half a character, which cannot be written as UTF-8; in a test row it becomes a question mark |
| duplicate*, conflict* | the same picture and question again: with the same answer, with another one |
| leaks_from_test, leaks_from_validation | a train (or validation) row that is in that split too, or nearly |

Not for a count is a question of CLEVR's other kinds (yes or no, which colour, shape, size, material), and an English
one that begins with what, which, who, where, when, why, how, find, describe, explain, name or list and nowhere speaks
of how many, of a number, a count, a total or the like. Other words and other languages may ask for a count. The tags
around a thinking text are taken off; one in the middle would end it there for whoever reads a completion.

Those with a star stay in a test split and are reported. Leaks stay, reported, where the two splits were given the very
same data on purpose.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from othink_mr1.answers import extract_answer, read
from othink_mr1.data.pictures import RowError, read_picture
from othink_mr1.data.schema import sample_id
from othink_mr1.data.solutions import answer_of, solution_of

MOST_CHARACTERS = 4000  # of a question: longer ones do not fit into a prompt
_MOST_THINKING = 16_000  # characters: some 4,000 tokens, more than a completion has room for
_SPECIAL = re.compile(r"<\|(?=[^<>|\s]+\|>)")  # <|im_end|>, <|image_pad|>, <|vision_start|>, ...
_TAGS = re.compile(r"<(?=/?(think|answer)\s*>)", re.IGNORECASE)
_COUNT = re.compile(r"[0-9]{1,18}")
# Of questions for something else that begin like this, "the number of" is a part: is it the same as another one?
_CLEVRS_OTHERS = re.compile(
    r"^(is|are|do|does|did|has|have|was|were|can)\b|\b(what|which)\b.*\b(colou?r|shape|size|material)\b"
)
_ASKS_A_COUNT = re.compile(r"\b(how many|what number|what is the (total )?number|count)\b")
# As a Danish word, too, "find" may begin a question for a count.
_ENGLISH = re.compile(
    r"^\W*(please\s+)?(what|which|who|whom|whose|where|when|why|how|find(?!.*\b(antal|hvor))|describe|explain|name|list)\b"
)
_OF_A_COUNT = re.compile(
    r"\b(how (many|often)|how much (?!(is|are|was|were|do|does|did)\b)\w+|(what|which) number|numbers? of"
    r"|count(s|ed|ing)?|total|quantity|amount|sum|tally)\b"
)
_MOST_KEPT_BYTES = 8_000_000  # of a quarantined picture
# How files of the formats that `pictures` reads begin; BMP with the size of its header, for BM may begin a text.
_BEGINS_AS_PICTURE = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF.{4}WEBP|BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0|GIF8[79]a"
    rb"|(II|MM)([*+]\0|\0[*+])",
    re.DOTALL,
)

Complain = Callable[[str, str], None]  # takes reason and detail of what a test row may have


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
    """A row in the form of `schema.SCHEMA`, and what is known of its picture (see `pictures.Picture`)."""

    row: dict[str, Any]
    pixels_sha256: str
    width: int
    height: int
    thumbnail: bytes
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
        if raw.split != "test":
            raise RowError(reason, detail)
        reported.append((reason, detail))

    try:
        if raw.failure is not None:
            raise RowError(*raw.failure)
        clean = partial(_clean, complain=complain)
        problem = _clean_of_tags(clean(_text(raw.problem, "question_missing")), complain)
        answer = clean(_answer(raw, complain))
        thinking = _clean_of_tags(clean(_without_tags(raw.thinking)), complain)
        if len(thinking) > _MOST_THINKING:
            complain("thinking_too_long", f"{len(thinking)} characters; at most {_MOST_THINKING}")
        _check_question(problem, task, complain)
        if answer:
            _check_answer(answer, task, complain)
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
    return Accepted(
        row=row,
        pixels_sha256=picture.pixels_sha256,
        width=picture.width,
        height=picture.height,
        thumbnail=picture.thumbnail,
        encoded_anew=picture.encoded_anew,
        reported=tuple(reported),
    )


def _check_question(problem: str, task: str, complain: Complain) -> None:
    if len(problem) > MOST_CHARACTERS:
        complain("question_too_long", f"{len(problem)} characters; at most {MOST_CHARACTERS}")
    asked = problem.lower()
    if task == "counting" and (
        (_CLEVRS_OTHERS.search(asked) and not _ASKS_A_COUNT.search(asked))
        or (_ENGLISH.search(asked) and not _OF_A_COUNT.search(asked))
    ):
        complain("question_not_a_count", f"{_shown(problem)}; a question such as How many items are there?")


def _check_answer(answer: str, task: str, complain: Complain) -> None:
    if task == "counting" and not _COUNT.fullmatch(answer):
        complain("answer_not_a_count", f"{answer[:60]!r}; a whole number such as 3")
        return
    truth = read(answer, task)
    again = read(extract_answer(solution_of(answer)) or "", task)
    if truth is None or again is None or not truth.equals(again):
        complain("answer_unreadable", f"{answer[:60]!r}; a number, with its unit or without")


def _text(value: Any, reason: str) -> str:
    if not isinstance(value, str):
        raise RowError(reason, "there is none" if value is None else f"{_shown(value)} is no text")
    if not value.strip():
        raise RowError(reason, "it is empty")
    return value.strip()


def _answer(raw: RawRow, complain: Complain) -> str:
    """The answer as text, from whichever of answer and solution the row has; empty for a test row without any."""
    answers: list[str] = []
    for value in (raw.answer, raw.solution):
        try:
            answers += [_one_answer(value)] if value is not None else []
        except RowError as why:
            complain(why.reason, why.detail)
    if not answers:
        complain("answer_missing", "there is none")
        return ""
    if len(set(answers)) > 1:
        complain("answer_contradicts_solution", f"{answers[0][:60]!r} and {answers[1][:60]!r}")
    return answers[0]


def _one_answer(value: Any) -> str:
    if isinstance(value, Decimal):
        value = str(value)
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


def _clean(text: str, complain: Complain) -> str:
    """The text without what would break a prompt or a file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        complain("text_not_unicode", f"half a character in {_shown(text)}")
        text = text.encode("utf-8", "replace").decode()
    if _SPECIAL.search(text):
        complain("special_tokens", f"in {_shown(text)}")
        text = _SPECIAL.sub("< |", text)
    return text


def _clean_of_tags(text: str, complain: Complain) -> str:
    """The text without tags that readers of a completion would take for its own."""
    found = _TAGS.search(text)
    if found is None:
        return text
    complain("answer_tags", f"in {_shown(text[found.start() :])}")
    return _TAGS.sub("< ", text)


def _shown(value: Any) -> str:
    """A value for a message: plain ASCII, at most 60 characters of it."""
    return ascii(value)[:60]


def _quarantine_row(raw: RawRow, task: str, reason: str, detail: str) -> dict[str, Any]:
    picture = raw.picture or b""
    why_not = _why_not_kept(picture) if picture else ""
    if why_not:
        detail = f"{detail}; its {len(picture)} bytes are not kept ({why_not})"
    return {
        "task": task,
        "split": raw.split,
        "source": raw.source,
        "reason": reason,
        "detail": printable(detail),
        "image": {"bytes": None if why_not else picture or None, "path": None},
        "problem": printable(raw.problem),
        "answer": printable(raw.answer if raw.answer is not None else raw.solution),
    }


def _why_not_kept(picture: bytes) -> str:
    """Why the bytes stay out of the quarantine, which others may get to see; empty if they do not."""
    if not _BEGINS_AS_PICTURE.match(picture):
        return "they do not begin as a picture's"
    return f"at most {_MOST_KEPT_BYTES} of a picture are" if len(picture) > _MOST_KEPT_BYTES else ""


def printable(value: Any) -> str | None:
    """Any value as text that can be stored, cut to a length that fits."""
    if value is None:
        return None
    return str(value)[:MOST_CHARACTERS].encode("utf-8", "backslashreplace").decode()
