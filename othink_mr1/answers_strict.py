"""Reading one answer as an exact number with a unit, without eval.

`2√{3}`, `\\frac{4}{5}`, `65π`, `70^\\circ`, `8cm`, `x=5`, `1,200 m²` are all read by a small recursive-descent
parser. Its work is bounded by construction: text of at most `MAX_LENGTH` characters, groups nested at most
`MAX_DEPTH` deep, numbers of at most `MAX_BITS` bits, so hostile text costs milliseconds.

A number is a sum of terms `c * sqrt(r) * pi**k` with a rational c and a square-free r; two such sums are equal
exactly when their terms are.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import gcd, isqrt

MAX_LENGTH = 200
MAX_DEPTH = 20
MAX_BITS = 300
MAX_TERMS = 8
MAX_EXPONENT = 12
MAX_RADICAND = 10**12

# (r, k) -> c for the term c * sqrt(r) * pi**k
Terms = dict[tuple[int, int], Fraction]


class Unreadable(ValueError):
    """The text is not a number with a unit, or is outside the bounds of the reader."""


@dataclass(frozen=True)
class Quantity:
    """An exact number and the dimension of its unit.

    Attributes:
        terms: the number in the base unit of its dimension (degrees, metres, square metres, seconds).
        dimension: "angle", "length", "area", "volume", "time", or "" where no unit was written.
        as_written: the terms in the unit that was written.
        unit: the unit as written, in its short form ("cm", "°"), or "".
    """

    terms: tuple[tuple[tuple[int, int], Fraction], ...]
    dimension: str
    as_written: tuple[tuple[tuple[int, int], Fraction], ...]
    unit: str

    def equals(self, other: "Quantity") -> bool:
        """Equal numbers and, where both carry a unit, equal quantities (80 cm is 0.8 m; 70° is not 70 cm).

        A unit left out on one side is taken to be the other's: questions often name it already.
        """
        if self.dimension and other.dimension:
            return self.dimension == other.dimension and self.terms == other.terms
        return self.as_written == other.as_written


# --- exact arithmetic -------------------------------------------------------------------------------------------


def _checked(terms: Terms) -> Terms:
    terms = {key: c for key, c in terms.items() if c}
    if len(terms) > MAX_TERMS:
        raise Unreadable("too many terms")
    for (radicand, power), c in terms.items():
        if max(c.numerator.bit_length(), c.denominator.bit_length(), radicand.bit_length()) > MAX_BITS:
            raise Unreadable("number too large")
        if abs(power) > MAX_EXPONENT:
            raise Unreadable("power of pi too large")
    return terms


def _rational(value: Fraction | int) -> Terms:
    return _checked({(1, 0): Fraction(value)})


def _add(a: Terms, b: Terms, sign: int = 1) -> Terms:
    total = dict(a)
    for key, c in b.items():
        total[key] = total.get(key, Fraction(0)) + sign * c
    return _checked(total)


def _multiply(a: Terms, b: Terms) -> Terms:
    product: Terms = {}
    for (r1, k1), c1 in a.items():
        for (r2, k2), c2 in b.items():
            common = gcd(r1, r2)  # sqrt(r1) sqrt(r2) = common * sqrt(r1 r2 / common^2), again square-free
            key = (r1 // common * (r2 // common), k1 + k2)
            product[key] = product.get(key, Fraction(0)) + c1 * c2 * common
    return _checked(product)


def _invert(a: Terms) -> Terms:
    if not a:
        raise Unreadable("division by zero")
    if len(a) == 1:
        ((radicand, power), c) = next(iter(a.items()))
        return _checked({(radicand, -power): 1 / (c * radicand)})
    if len(a) > 2:
        raise Unreadable("division by a sum of three parts")
    (key1, c1), (key2, c2) = a.items()
    conjugate: Terms = {key1: c1, key2: -c2}
    norm = _multiply(a, conjugate)
    if len(norm) != 1:  # a sum with π in one part: it has no inverse of this form
        raise Unreadable("division by a sum with pi")
    return _multiply(conjugate, _invert(norm))


def _raise(a: Terms, exponent: int) -> Terms:
    if abs(exponent) > MAX_EXPONENT:
        raise Unreadable("exponent too large")
    base = a if exponent >= 0 else _invert(a)
    result = _rational(1)
    for _ in range(abs(exponent)):
        result = _multiply(result, base)
    return result


def _square_free(n: int) -> tuple[int, int]:
    """(s, r) with n = s² r and r square-free; trial division to the cube root of n is enough."""
    root, p = 1, 2
    rest, free = n, 1
    while p * p * p <= rest:
        while rest % (p * p) == 0:
            rest //= p * p
            root *= p
        if rest % p == 0:
            rest //= p
            free *= p
        p += 1
    # what is left has at most two prime factors: a square, or square-free
    exact = isqrt(rest)
    return (root * exact, free) if exact * exact == rest else (root, free * rest)


def _square_root(a: Terms) -> Terms:
    if not a:
        return {}
    if set(a) != {(1, 0)}:
        raise Unreadable("root of a sum or of pi")
    value = a[1, 0]
    radicand = value.numerator * value.denominator
    if value < 0 or radicand > MAX_RADICAND:
        raise Unreadable("root of a negative or very large number")
    root, free = _square_free(radicand)
    return _checked({(free, 0): Fraction(root, value.denominator)})


# --- units ------------------------------------------------------------------------------------------------------

_LENGTHS = {
    "mm": (Fraction(1, 1000), "毫米 millimeter millimeters millimetre millimetres"),
    "cm": (Fraction(1, 100), "厘米 centimeter centimeters centimetre centimetres"),
    "dm": (Fraction(1, 10), "分米 decimeter decimeters"),
    "m": (Fraction(1), "米 meter meters metre metres"),
    "km": (Fraction(1000), "千米 公里 kilometer kilometers kilometre kilometres"),
    "nmi": (Fraction(1852), "海里 nauticalmile nauticalmiles"),
    "in": (Fraction(254, 10000), "inch inches"),
    "ft": (Fraction(3048, 10000), "foot feet"),
}
_OTHERS = {
    "°": ("angle", Fraction(1), "度 degree degrees deg"),
    "s": ("time", Fraction(1), "秒 sec second seconds"),
    "min": ("time", Fraction(60), "分钟 分 minute minutes"),
    "h": ("time", Fraction(3600), "小时 时 hr hour hours"),
    "%": ("", Fraction(1, 100), "percent"),
}


def _unit_table() -> dict[str, tuple[str, str, Fraction]]:
    """Spelling without spaces or `^` -> (short form, dimension, size in the base unit)."""
    table = {"": ("", "", Fraction(1)), "unit": ("", "", Fraction(1)), "units": ("", "", Fraction(1))}
    for short, (dimension, size, names) in _OTHERS.items():
        for name in [short, *names.split()]:
            table[name] = (short, dimension, size)
    for short, (size, names) in _LENGTHS.items():
        for name in [short, *names.split()]:
            table[name] = (short, "length", size)
            area, volume = (f"{short}²", "area", size**2), (f"{short}³", "volume", size**3)
            for spelling in (f"{name}2", f"square{name}", f"sq{name}", f"平方{name}"):
                table[spelling] = area
            for spelling in (f"{name}3", f"cubic{name}", f"立方{name}"):
                table[spelling] = volume
    return table


_UNITS = _unit_table()

# --- tokens -----------------------------------------------------------------------------------------------------

_CHARACTERS = str.maketrans(
    {
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        **{"²": "^2", "³": "^3", "−": "-", "–": "-", "－": "-", "＋": "+", "×": "*", "·": "*", "⋅": "*", "÷": "/"},
        **{"⁄": "/", "º": "°", "˚": "°", "（": "(", "）": ")", "［": "(", "］": ")", "％": "%", "．": ".", "，": ","},
        **{"′": "'", "＝": "=", "：": ":", "π": " π ", "∠": " "},
    }
)
_COMMANDS = {
    **{"sqrt": "√", "surd": "√", "pi": "π", "circ": "°", "degree": "°", "times": "*", "cdot": "*", "ast": "*"},
    **{"div": "/", "frac": "frac", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac"},
    # only dress: nothing of the value
    **dict.fromkeys("text mathrm mathbf mathit textbf mbox boxed left right displaystyle quad rm bf".split(), ""),
}
_WORDS = {"pi": "π", "sqrt": "√", "square": "square", "root": "root"}
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
        raise Unreadable("unknown command")
    name = text[start + 1 : end]
    if name not in _COMMANDS:
        raise Unreadable(f"unknown command {name}")
    return _COMMANDS[name], end


def _tokens(text: str) -> list[str]:
    """Numbers, words and signs of `text`; raises Unreadable at a character that no number has."""
    text = text.translate(_CHARACTERS).replace("{,}", ",").replace("\\,", "\u202f")
    tokens: list[str] = []
    at = 0
    while at < len(text):
        character = text[at]
        if character in "0123456789" or (character == "." and _ascii_digits(text[at + 1 : at + 2])):
            token, at = _number_at(text, at)
        elif character == "\\":
            token, at = _command_at(text, at)
        elif character.isspace() or character in "$~":
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
            raise Unreadable(f"unexpected {character!r}")
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
            raise Unreadable(f"expected {expected or 'more'}")
        self.at += 1
        return token

    def expression(self) -> Terms:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        sign = -1 if self.peek() == "-" else 1
        if self.peek() in ("+", "-"):
            self.take()
        total = _add({}, self.term(), sign)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            total = _add(total, self.term(), sign)
        self.depth -= 1
        return total

    def term(self) -> Terms:
        product = self.mixed_number() or self.power()
        while True:
            if self.peek() == "*":
                self.take()
                product = _multiply(product, self.power())
            elif self.peek() == "/":
                self.take()
                product = _multiply(product, _invert(self.power()))
            elif self.starts_factor():
                product = _multiply(product, self.power())
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
        """`3\\frac{1}{2}` and `3 1/2` are three and a half, not three times a half."""
        whole = self.peek()
        if not whole.isdigit():
            return None
        numbers = [self.peek(ahead) for ahead in (3, 6)] if self.peek(1) == "frac" else [self.peek(1), self.peek(3)]
        braces = [self.peek(ahead) for ahead in (2, 4, 5, 7)] == ["{", "}", "{", "}"]
        if not all(number.isdigit() for number in numbers):
            return None
        if not (self.peek(1) == "frac" and braces) and not self.peek(2) == "/":
            return None
        above, below = int(numbers[0]), int(numbers[1])
        if not 0 < above < below:
            return None
        self.at += 8 if braces else 4
        return _rational(int(whole) + Fraction(above, below))

    def power(self) -> Terms:
        base = self.atom()
        if self.peek() != "^" or "°" in (self.peek(1), self.peek(2)):
            return base
        self.take()
        return _raise(base, self.exponent())

    def exponent(self) -> int:
        closing = {"{": "}", "(": ")"}.get(self.peek(), "")
        if closing:
            self.take()
        sign = -1 if self.peek() == "-" else 1
        if sign < 0:
            self.take()
        digits = self.take()
        if not digits.isdigit() or len(digits) > 3:
            raise Unreadable("exponent is not a small integer")
        if closing:
            self.take(closing)
        return sign * int(digits)

    def atom(self) -> Terms:
        token = self.take()
        if _is_number(token):
            return _rational(Fraction(token))
        if token == "π":
            return {(1, 1): Fraction(1)}
        if token == "√":
            return self.root()
        if token == "frac":
            above = self.argument()
            return _multiply(above, _invert(self.argument()))
        if token in ("(", "{"):
            self.at -= 1
            return self.group()
        raise Unreadable(f"unexpected {token!r}")

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
            return _square_root(self.group())
        if not _is_number(self.peek()):
            raise Unreadable("root of nothing")
        return _square_root(_rational(Fraction(self.take())))

    def argument(self) -> Terms:
        """An argument of \\frac: a group, or the next single digit as in `\\frac12`."""
        if self.peek() == "{":
            return self.group()
        token = self.take()
        if not token.isdigit():
            raise Unreadable("fraction without its parts")
        if len(token) > 1:
            self.at -= 1
            self.tokens[self.at] = token[1:]
        return _rational(int(token[0]))


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
    words = [token for token in tail if token not in ("(", ")", "{", "}", "^")]
    extra: Terms = {}
    if len(words) == 3 and words[0] == "°" and words[1].isdigit() and words[2] == "'":
        extra = _rational(Fraction(int(words[1]), 60))
        words = words[:1]
    key = "".join(words)
    if key not in _UNITS:
        raise Unreadable(f"unknown unit {key}")
    return _UNITS[key], extra


def read_quantity(text: str) -> Quantity:
    """The number and unit that `text` is.

    Raises:
        Unreadable: it is anything else, such as two numbers, an unknown unit or a sentence.
    """
    if len(text) > MAX_LENGTH:
        raise Unreadable("too long")
    tokens = _strip_outer_groups(_tokens(text))
    if not tokens:
        raise Unreadable("empty")
    parser = _Parser(tokens)
    number = parser.expression()
    (short, dimension, size), extra = _read_unit(parser.tokens[parser.at :])
    number = _add(number, extra)
    in_base = _multiply(number, _rational(size))
    if short == "%":
        number, short = in_base, ""
    return Quantity(tuple(sorted(in_base.items())), dimension, tuple(sorted(number.items())), short)


def _decimal(value: Fraction) -> str | None:
    """`22.5`; None where six places do not hold it."""
    if 10**6 % value.denominator:
        return None
    whole, rest = divmod(abs(value.numerator) * 10**6 // value.denominator, 10**6)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def spell(quantity: Quantity) -> str:
    """One spelling for all equal ways of writing it: `0.8`, `4/3`, `2√3 m`, `140°`."""
    parts = []
    for (radicand, power), c in quantity.as_written:
        decimal = _decimal(c)
        if (radicand, power) == (1, 0) and decimal is not None:
            parts.append(("-" if c < 0 else "+") + decimal)
            continue
        symbols = (f"√{radicand}" if radicand > 1 else "") + ("π" if power == 1 else f"π^{power}" if power else "")
        above = symbols if abs(c.numerator) == 1 and symbols else f"{abs(c.numerator)}{symbols}"
        parts.append(("-" if c < 0 else "+") + above + (f"/{c.denominator}" if c.denominator > 1 else ""))
    number = "".join(parts).removeprefix("+") or "0"
    gap = "" if quantity.unit in ("", "°") else " "
    return f"{number}{gap}{quantity.unit}"
