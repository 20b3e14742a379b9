"""Exact numbers with roots, π and units: what an answer is once it has been read.

A number is a sum of terms `c * sqrt(r) * pi**k` with a rational c and a square-free r; two such sums are equal
exactly when their terms are. Every operation checks the bounds below, so no chain of them can grow.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import gcd, isqrt

MAX_BITS = 300
MAX_TERMS = 8
MAX_EXPONENT = 12
MAX_RADICAND = 10**12

# (r, k) -> c for the term c * sqrt(r) * pi**k
Terms = dict[tuple[int, int], Fraction]


class UnreadableError(ValueError):
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
        raise UnreadableError("too many terms")
    for (radicand, power), c in terms.items():
        if max(c.numerator.bit_length(), c.denominator.bit_length(), radicand.bit_length()) > MAX_BITS:
            raise UnreadableError("number too large")
        if abs(power) > MAX_EXPONENT:
            raise UnreadableError("power of pi too large")
    return terms


def rational(value: Fraction | int) -> Terms:
    return _checked({(1, 0): Fraction(value)})


def add(a: Terms, b: Terms, sign: int = 1) -> Terms:
    total = dict(a)
    for key, c in b.items():
        total[key] = total.get(key, Fraction(0)) + sign * c
    return _checked(total)


def multiply(a: Terms, b: Terms) -> Terms:
    product: Terms = {}
    for (r1, k1), c1 in a.items():
        for (r2, k2), c2 in b.items():
            common = gcd(r1, r2)  # sqrt(r1) sqrt(r2) = common * sqrt(r1 r2 / common^2), again square-free
            key = (r1 // common * (r2 // common), k1 + k2)
            product[key] = product.get(key, Fraction(0)) + c1 * c2 * common
    return _checked(product)


def invert(a: Terms) -> Terms:
    if not a:
        raise UnreadableError("division by zero")
    if len(a) == 1:
        ((radicand, power), c) = next(iter(a.items()))
        return _checked({(radicand, -power): 1 / (c * radicand)})
    if len(a) > 2:
        raise UnreadableError("division by a sum of three parts")
    (key1, c1), (key2, c2) = a.items()
    conjugate: Terms = {key1: c1, key2: -c2}
    norm = multiply(a, conjugate)
    if len(norm) != 1:  # a sum with π in one part: it has no inverse of this form
        raise UnreadableError("division by a sum with pi")
    return multiply(conjugate, invert(norm))


def to_power(a: Terms, exponent: int) -> Terms:
    if abs(exponent) > MAX_EXPONENT:
        raise UnreadableError("exponent too large")
    base = a if exponent >= 0 else invert(a)
    result = rational(1)
    for _ in range(abs(exponent)):
        result = multiply(result, base)
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


def square_root(a: Terms) -> Terms:
    if not a:
        return {}
    if set(a) != {(1, 0)}:
        raise UnreadableError("root of a sum or of pi")
    value = a[1, 0]
    radicand = value.numerator * value.denominator
    if value < 0 or radicand > MAX_RADICAND:
        raise UnreadableError("root of a negative or very large number")
    root, free = _square_free(radicand)
    return _checked({(free, 0): Fraction(root, value.denominator)})


# --- units ------------------------------------------------------------------------------------------------------

_LENGTHS = {
    "mm": (Fraction(1, 1000), "毫米 millimeter millimeters millimetre millimetres"),
    "cm": (Fraction(1, 100), "厘米 公分 centimeter centimeters centimetre centimetres"),
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
    table = dict.fromkeys(["", "unit", "units", "squareunits", "cubicunits"], ("", "", Fraction(1)))
    for short, (dimension, size, names) in _OTHERS.items():
        for name in [short, *names.split()]:
            table[name] = (short, dimension, size)
    for short, (size, names) in _LENGTHS.items():
        for name in [short, *names.split()]:
            table[name] = (short, "length", size)
            area, volume = (f"{short}²", "area", size**2), (f"{short}³", "volume", size**3)
            for spelling in (f"{name}2", f"{name}squared", f"square{name}", f"sq{name}", f"平方{name}"):
                table[spelling] = area
            for spelling in (f"{name}3", f"{name}cubed", f"cubic{name}", f"立方{name}"):
                table[spelling] = volume
    return table


UNITS = _unit_table()


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
