r"""Reading one answer as an exact number with a unit, without eval.

`2√{3}`, `\frac{4}{5}`, `65π`, `70^\circ`, `8cm`, `x=5`, `1,200 m²` are all read by a small recursive-descent
parser. Its work is bounded by construction: text of at most `MAX_LENGTH` characters, groups nested at most
`MAX_DEPTH` deep, and the bounds of `exact`, so hostile text costs milliseconds.
"""

import unicodedata
from fractions import Fraction

from othink_mr1.answers.exact import (
    UNITS,
    Quantity,
    Terms,
    UnreadableError,
    add,
    invert,
    multiply,
    rational,
    square_root,
    to_power,
)

MAX_LENGTH = 200
MAX_DEPTH = 20

# --- tokens -----------------------------------------------------------------------------------------------------

_CHARACTERS: dict[int, int | str | None] = {
    **str.maketrans("０１２３４５６７８９−–－＋×·⋅÷⁄º˚（）［］％．，′", "0123456789---+***//°°()()%.,'"),
    ord("²"): "^2",
    ord("³"): "^3",
    ord("π"): " π ",
    **{ord(sign): f" {unicodedata.normalize('NFKC', sign).replace('⁄', '/')} " for sign in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"},
    **{ord(sign): unicodedata.normalize("NFKC", sign) for sign in "㎜㎝㎞㎟㎠㎡㎢㎥"},
}
_COMMANDS = {
    **dict.fromkeys(["sqrt", "surd"], "√"),
    **dict.fromkeys(["frac", "dfrac", "tfrac", "cfrac"], "frac"),
    **dict.fromkeys(["circ", "degree"], "°"),
    **dict.fromkeys(["times", "cdot", "ast"], "*"),
    **dict.fromkeys(["div"], "/"),
    **dict.fromkeys(["pi"], "π"),
    # only dress: nothing of the value
    **dict.fromkeys(["text", "mathrm", "mathbf", "mathit", "textbf", "mbox", "boxed", "left", "right", "quad"], ""),
}
_WORDS = {"pi": "π", "sqrt": "√"}
_THOUSANDS = ",\u202f\u2009"


def _number_at(text: str, start: int) -> tuple[str, int]:
    """The digits of the number that starts at `start`, without separators, and where it ends."""
    end = start
    while end < len(text) and text[end] in "0123456789":
        end += 1
    digits = text[start:end]
    if 0 < len(digits) <= 3 and digits[0] != "0":
        while text[end : end + 1] and text[end] in _THOUSANDS:
            group, following = text[end + 1 : end + 4], text[end + 4 : end + 5]
            if len(group) < 3 or not _ascii_digits(group) or _ascii_digits(following):
                break
            digits, end = digits + group, end + 4
    if end + 1 < len(text) and text[end] == "." and text[end + 1] in "0123456789":
        stop = end + 1
        while stop < len(text) and text[stop] in "0123456789":
            stop += 1
        digits, end = digits + text[end:stop], stop
    return digits, end


def _ascii_digits(text: str) -> bool:
    return bool(text) and all(character in "0123456789" for character in text)


def _is_letter(character: str) -> bool:
    return character.isalpha() and character != "π"


def _command_at(text: str, start: int) -> tuple[str, int]:
    """The token of the LaTeX command at the backslash `start` ("" for spacing), and where it ends."""
    end = start + 1
    while end < len(text) and text[end].isascii() and text[end].isalpha():
        end += 1
    if end == start + 1:  # \, \; \! \( \[ \% ...
        if end < len(text) and text[end] == "%":
            return "%", end + 1
        if end < len(text) and text[end] in ",;:! ()[]":
            return "", end + 1
        raise UnreadableError("unknown command")
    name = text[start + 1 : end]
    if name not in _COMMANDS:
        raise UnreadableError(f"unknown command {name}")
    return _COMMANDS[name], end


def _tokens(text: str) -> list[str]:
    """Numbers, words and signs of `text`; raises UnreadableError at a character that no number has."""
    text = text.translate(_CHARACTERS).replace("{,}", ",").replace("\\,", "\u202f")
    tokens: list[str] = []
    at = 0
    while at < len(text):
        character = text[at]
        if character in "0123456789" or (character == "." and _ascii_digits(text[at + 1 : at + 2])):
            token, at = _number_at(text, at)
        elif character == "\\":
            token, at = _command_at(text, at)
        elif character.isspace() or character in "$~" or (character == "." and _is_letter(text[at - 1 : at])):  # sq. cm
            token, at = "", at + 1
        elif character in "+-*/^(){}√π°%'[]":
            token, at = character, at + 1
        elif _is_letter(character):
            end = at
            while end < len(text) and _is_letter(text[end]):
                end += 1
            token, at = text[at:end].lower(), end
            token = _WORDS.get(token, token)
        else:
            raise UnreadableError(f"unexpected {character!r}")
        if token:
            tokens.append(token)
    return tokens


# --- parser -----------------------------------------------------------------------------------------------------


def _is_number(token: str) -> bool:
    return token[:1] in tuple("0123456789.")


class _Parser:
    """expr = [sign] term {sign term};  term = power {[* /] power};  power = atom [^ integer]."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise UnreadableError(f"expected {expected or 'more'}")
        self.at += 1
        return token

    def expression(self) -> Terms:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        sign = -1 if self.peek() == "-" else 1
        if self.peek() in ("+", "-"):
            self.take()
        total = add({}, self.term(), sign)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            total = add(total, self.term(), sign)
        self.depth -= 1
        return total

    def term(self) -> Terms:
        product = self.mixed_number() or self.power()
        while True:
            if self.peek() == "*":
                self.take()
                product = multiply(product, self.power())
            elif self.peek() == "/":
                self.take()
                product = multiply(product, invert(self.power()))
            elif self.starts_factor():
                product = multiply(product, self.power())
            else:
                return product

    def starts_factor(self) -> bool:
        """Whether a factor follows without a sign: `2√3`, `2π`, `2(1+√3)`, but not the group of `5{cm}`."""
        token = self.peek()
        if token in ("√", "π", "frac"):
            return True
        following = self.peek(1)
        return token in ("(", "{") and (_is_number(following) or following in ("√", "π", "frac", "-", "(", "{"))

    def mixed_number(self) -> Terms | None:
        """`3\frac{1}{2}` and `3 1/2` are three and a half, not three times a half."""
        whole = self.peek()
        for pattern in (["", "frac", "{", "", "}", "{", "", "}"], ["", "", "/", ""]):
            window = self.tokens[self.at : self.at + len(pattern)]
            numbers = [token for token, expected in zip(window, pattern, strict=False) if not expected]
            if len(window) < len(pattern) or not all(number.isdigit() for number in numbers):
                continue
            if any(expected not in ("", token) for token, expected in zip(window, pattern, strict=True)):
                continue
            above, below = int(numbers[1]), int(numbers[2])
            if 0 < above < below:
                self.at += len(pattern)
                return rational(int(whole) + Fraction(above, below))
        return None

    def power(self) -> Terms:
        base = self.atom()
        if self.peek() != "^" or "°" in (self.peek(1), self.peek(2)):
            return base
        self.take()
        return to_power(base, self.exponent())

    def exponent(self) -> int:
        closing = {"{": "}", "(": ")"}.get(self.peek(), "")
        if closing:
            self.take()
        sign = -1 if self.peek() == "-" else 1
        if sign < 0:
            self.take()
        digits = self.take()
        if not digits.isdigit() or len(digits) > 3:
            raise UnreadableError("exponent is not a small integer")
        if closing:
            self.take(closing)
        return sign * int(digits)

    def atom(self) -> Terms:
        token = self.take()
        if _is_number(token):
            return rational(Fraction(token))
        if token == "π":
            return {(1, 1): Fraction(1)}
        if token == "√":
            return self.root()
        if token == "frac":
            above = self.argument()
            return multiply(above, invert(self.argument()))
        if token in ("(", "{"):
            self.at -= 1
            return self.group()
        raise UnreadableError(f"unexpected {token!r}")

    def group(self) -> Terms:
        closing = {"(": ")", "{": "}"}[self.take()]
        inside = self.expression()
        self.take(closing)
        return inside

    def root(self) -> Terms:
        if self.peek() == "[":  # \sqrt[2]{...}; other roots are not in the data
            self.take()
            self.take("2")
            self.take("]")
        if self.peek() in ("(", "{"):
            return square_root(self.group())
        if not _is_number(self.peek()):
            raise UnreadableError("root of nothing")
        return square_root(rational(Fraction(self.take())))

    def argument(self) -> Terms:
        """An argument of \\frac: a group, or the next single digit as in `\\frac12`."""
        if self.peek() == "{":
            return self.group()
        token = self.take()
        if not token.isdigit():
            raise UnreadableError("fraction without its parts")
        if len(token) > 1:
            self.at -= 1
            self.tokens[self.at] = token[1:]
        return rational(int(token[0]))


def _strip_outer_groups(tokens: list[str]) -> list[str]:
    """Without the braces of `\\boxed{5 cm}` or `(5 cm)`, where they hold everything."""
    pairs = {"{": "}", "(": ")"}
    while len(tokens) > 2 and pairs.get(tokens[0]) == tokens[-1]:
        depth = 0
        for index, token in enumerate(tokens):
            depth += (token in "({") - (token in ")}")
            if depth == 0 and index < len(tokens) - 1:
                return tokens
        tokens = tokens[1:-1]
    return tokens


def _read_unit(tail: list[str]) -> tuple[tuple[str, str, Fraction], Terms]:
    """The unit after the number, and what the minutes of `22°30'` add to it."""
    if tail.count("(") != tail.count(")") or tail.count("{") != tail.count("}"):
        raise UnreadableError("brackets that do not close")
    words = [token for token in tail if token not in ("(", ")", "{", "}", "^")]
    extra: Terms = {}
    if len(words) == 3 and words[0] == "°" and words[1].isdigit() and words[2] == "'":
        extra = rational(Fraction(int(words[1]), 60))
        words = words[:1]
    key = "".join(words)
    if key not in UNITS:
        raise UnreadableError(f"unknown unit {key}")
    return UNITS[key], extra


def read_quantity(text: str) -> Quantity:
    """The number and unit that `text` is.

    Raises:
        UnreadableError: it is anything else, such as two numbers, an unknown unit or a sentence.
    """
    if len(text) > MAX_LENGTH:
        raise UnreadableError("too long")
    tokens = _strip_outer_groups(_tokens(text))
    if not tokens:
        raise UnreadableError("empty")
    parser = _Parser(tokens)
    number = parser.expression()
    (short, dimension, size), extra = _read_unit(parser.tokens[parser.at :])
    number = add(number, extra)
    in_base = multiply(number, rational(size))
    if short == "%":
        number, short = in_base, ""
    return Quantity(tuple(sorted(in_base.items())), dimension, tuple(sorted(number.items())), short)
