"""The two protocols: what of a completion counts as its answer, and whether that answer is right."""

import re
from functools import lru_cache

from othink_mr1.answers import r1v
from othink_mr1.answers.exact import Quantity, UnreadableError, spell
from othink_mr1.answers.strict import MAX_LENGTH, read_quantity
from othink_mr1.errors import UserError
from othink_mr1.names import TASKS


class TruthError(UserError):
    """A solution that its protocol cannot read: an error of the data, not of the completion."""


PROTOCOLS = ("strict", "r1v")

_TEENS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_TEN_VALUES = {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_WORD_VALUES = {word: value for value, word in enumerate(_TEENS.split())} | _TEN_VALUES
# What may stand around a count. Anything else ("about", "not", "or") makes it unreadable.
_COUNT_DRESS = """a all altogether answer are blue brown contains count cube cubes cyan cylinder cylinders different
    final gold gray green grey here i image in is it item items large metal metallic number object objects of orange
    picture pink purple red rubber scene see shape shapes shiny small sphere spheres the there thing things total
    visible yellow"""
_COUNT_DRESS_WORDS = frozenset(_COUNT_DRESS.split())


def extract_answer(completion: str) -> str | None:
    """The text of the last complete `<answer>` block, stripped; None if there is none."""
    last_close = completion.rfind("</answer>")
    start = completion.rfind("<answer>", 0, max(last_close, 0))
    if start < 0:
        return None
    start += len("<answer>")
    return completion[start : completion.find("</answer>", start)].strip()


def format_ok(completion: str) -> bool:
    """Whether the whole completion matches R1-V's `<think>.*?</think>\\s*<answer>.*?</answer>`, dot matching newline.

    Written as its linear equivalent: the regex itself takes quadratic time on `</think><answer></answer>` repeated.
    """
    opening, closing = "<think>", "</answer>"
    if not (completion.startswith(opening) and completion.endswith(closing)):
        return False
    return _THINK_TO_ANSWER.search(completion, len(opening), len(completion) - len(closing)) is not None


_THINK_TO_ANSWER = re.compile(r"</think>\s*<answer>")


def read(answer: str, task: str) -> Quantity | None:
    """The number that the text of an answer (without its tags) stands for, or None if it cannot be read.

    Works on truths too: a truth for which this is None is an error of the data.
    """
    _check("task", task, TASKS)
    text = answer[: MAX_LENGTH + 1].strip().strip('*`"').rstrip(".。,，;；!").strip()
    if len(answer) > 4 * MAX_LENGTH or len(text) > MAX_LENGTH:
        return None
    return _read(text, task)


@lru_cache(maxsize=4096)  # the same few numbers come again and again; texts are short here
def _read(text: str, task: str) -> Quantity | None:
    for reader in (_read_count, _read_value) if task == "counting" else (_read_value,):
        try:
            found = reader(text)
        except UnreadableError:
            continue
        return found if task != "counting" or not found.dimension else None  # `7 cm` counts nothing
    return None


def normalise(answer: str) -> str:
    """One spelling for all ways of writing the same answer (`\\frac{4}{5}` and `0.8`); unreadable text only tidied."""
    quantity = read(answer, "geometry")
    return spell(quantity) if quantity is not None else " ".join(answer.split())


def truth_of(solution: str) -> str:
    """The bare truth of a `solution`, which is `<answer> 3 </answer>` or just `3`."""
    inside = extract_answer(solution)
    return solution.strip() if inside is None else inside


def is_correct(completion: str, solution: str, task: str, protocol: str) -> bool:
    """Whether `completion` answers `solution` (`<answer> 70° </answer>`, or the bare truth).

    Raises:
        TruthError: a solution that the protocol cannot read.
        UserError: unknown task or protocol, or `r1v` geometry without the package math-verify.
    """
    _check("task", task, TASKS)
    _check("protocol", protocol, PROTOCOLS)
    truth = truth_of(solution)
    if protocol == "r1v":
        if task == "counting":
            if not _is_integer(truth):
                raise TruthError(f"solution: {_shown(truth)} is not a whole number, as R1-V's counting script needs")
            return r1v.count_is_correct(completion, int(truth))
        return r1v.geometry_is_correct(completion, truth)
    expected = read(truth, task)
    if expected is None:
        raise TruthError(f"solution: {_shown(truth)} cannot be read as a {task} answer; give a number, unit or not")
    answer = extract_answer(completion)
    found = None if answer is None else read(answer, task)
    return found is not None and found.equals(expected)


# What says that two things are not equal, wherever it stands.
_UNEQUAL = re.compile(r"[<>≠≤≥]|!=|~=|\\(?:neq?|leq?|geq?|lt|gt)\b|\bnot\b|n't\b", re.IGNORECASE)
_EQUALS = re.compile(r"＝|(?<![\s\d)}\]])\s*[:：]| (?:is|are) equal to | equals(?: to)? | is | are ", re.IGNORECASE)


def _read_value(text: str) -> Quantity:
    """`140°`, `x = 5`, `angle CED is 140°`, `1/2 = 0.5`, `2√3 ≈ 3.46`: the last side of an equation.

    Sides that are numbers too have to agree with it: `3 = 5` is no answer.
    """
    if _UNEQUAL.search(text):
        raise UnreadableError("an inequality")
    text = text.replace("\\approx", "≈")
    for rounded in text.split("≈"):  # what stands before it is exact
        sides = [side.strip(" $") for side in _EQUALS.sub("=", rounded).split("=")]
        if len(sides) > 1 and sides[-1].isalpha() and len(sides[-1]) <= 3 and sides[-1].isascii():  # 5 = x
            sides.pop()
        numbers = [_number(side) for side in sides]
        if numbers[-1] is not None:
            if any(number is not None and not number.equals(numbers[-1]) for number in numbers):
                raise UnreadableError("sides that differ")
            return numbers[-1]
    raise UnreadableError("no number")


def _number(text: str) -> Quantity | None:
    try:
        return read_quantity(text)
    except UnreadableError:
        return None


def _read_count(text: str) -> Quantity:
    """`seven`, `7 items`, `There are twenty-one objects`: one number among words that only dress it."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    numbers = [word for word in words if word not in _COUNT_DRESS_WORDS]
    values = [_WORD_VALUES.get(word) for word in numbers]
    if any(not c.isalnum() and c not in " .,-!\n" for c in text):
        raise UnreadableError("signs other than those of a sentence")
    if len(numbers) == 1 and values[0] is not None:
        return read_quantity(str(values[0]))
    if len(numbers) == 1 and numbers[0].isascii() and numbers[0].isdigit() and "-" not in text:
        return read_quantity(numbers[0])
    if len(numbers) == 2 and numbers[0] in _TEN_VALUES and values[1] is not None and 0 < values[1] < 10:
        return read_quantity(str(_WORD_VALUES[numbers[0]] + values[1]))
    raise UnreadableError("not one count")


def _is_integer(text: str) -> bool:
    return len(text) < 20 and text.removeprefix("-").isdigit() and text.isascii()


def _check(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{key}: {value!r} is unknown; known are {', '.join(known)}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
