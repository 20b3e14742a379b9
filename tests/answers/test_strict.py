"""The strict protocol, held against pairs judged by hand."""

import itertools
import json
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from othink_mr1.answers import TruthError, extract_answer, is_correct, normalise
from othink_mr1.errors import UserError

# One truth a line, after lines that say where they are from.
GEOQA_TRUTHS = Path(__file__).with_name("geoqa_truths.txt")

# Judged by hand: a truth a line, with answers (texts of an `<answer>` block) and whole completions, right and wrong.
JUDGED = [
    json.loads(line) for line in Path(__file__).with_name("judged.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("judged", JUDGED, ids=lambda judged: f"{judged['task']} {judged['truth']}")
def test_verdicts_are_those_of_a_person(judged: dict) -> None:
    pairs = [
        (text if key.startswith("completions") else f"<think> so </think> <answer>{text}</answer>", key)
        for key in judged.keys() - {"task", "truth"}
        for text in judged[key]
    ]
    found = [is_correct(completion, judged["truth"], judged["task"], "strict") for completion, _ in pairs]
    differ = [pair for pair, right in zip(pairs, found, strict=True) if right is not pair[1].endswith("right")]
    assert not differ


def test_larger_number_words() -> None:
    assert is_correct("<answer>21</answer>", "twenty one", "counting", "strict")


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer> 5 </answer>", "5"),
        ("<answer>5</answer> then <answer>6</answer>", "6"),
        ("<answer>5</answer> then <answer>6", "5"),
        ("<answer><answer>5</answer></answer>", "5"),
        ("<answer>3</answer> 5</answer>", "3"),
        ("</answer><answer>", None),
        ("5", None),
        ("<answer></answer>", ""),
    ],
)
def test_only_the_last_whole_block_counts(completion: str, answer: str | None) -> None:
    assert extract_answer(completion) == answer


def test_a_number_outside_the_block_is_no_answer() -> None:
    assert not is_correct("<think> 5 </think> 5", "5", "geometry", "strict")


def test_spellings_of_one_answer_become_one() -> None:
    assert {normalise(text) for text in ("0.8", "4/5", r"\frac{4}{5}", "8/10")} == {"0.8"}
    assert {normalise(text) for text in ("2√{3}m", r"2\sqrt{3} m", "√12米")} == {"2√3 m"}
    assert normalise("  no   number ") == "no number"


def test_a_truth_that_cannot_be_read_is_an_error_of_the_data() -> None:
    with pytest.raises(TruthError, match="'many' cannot be read as a counting answer"):
        is_correct("<answer>1</answer>", "<answer> many </answer>", "counting", "strict")


@pytest.mark.parametrize(("task", "protocol"), [("chess", "strict"), ("counting", "loose")])
def test_unknown_tasks_and_protocols_are_named(task: str, protocol: str) -> None:
    with pytest.raises(UserError, match="is unknown; known are"):
        is_correct("<answer>1</answer>", "1", task, protocol)


HOSTILE = [
    "9^9^9^9^9",
    "9" * 1_000_000,
    "9^" * 500_000,
    "(" * 1_000_000,
    "{" * 199,
    "√" * 199,
    r"\frac{" * 30,
    "((√2+√3+√5)^12)^12",
    "9" * 80 + "^12",
    "√999999999989" * 12,
    "-" * 190 + "1",
    "1," * 90,
    "<answer>" * 100_000,
    "</think><answer></answer>" * 40_000,
    "seven " * 100_000,
    "\\" * 150,
    "\x00" * 100,
    "١٢٣",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_wrong_and_quick_in_threads(text: str) -> None:
    def judge(task: str) -> bool:
        return any(is_correct(shape, "7", task, "strict") for shape in (text, f"<answer>{text}</answer>"))

    start = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        assert not any(threads.map(judge, ("counting", "geometry")))
    # A bound, not a speed: what these guard against takes minutes.
    assert time.perf_counter() - start < 5


def _by_float(truth: str) -> tuple[float, tuple[float, str]]:
    """(value as written, (size of its unit, dimension)) of a truth of GeoQA, by another way: regexes and floats."""
    text = (
        truth.replace("^2^", "²").replace("^{2}", "²").replace("平方米", "m²").replace("厘米", "cm").replace("米", "m")
    )
    matched = re.fullmatch(r"(.*?)(°|mm|cm²|cm|m²|m|海里|小时|秒|)", text)
    assert matched is not None
    number, unit = matched.groups()
    number = re.sub(r"\\frac\{(.*)\}\{(\d+)\}", r"((\1)/\2)", number)
    number = re.sub(r"√\{(\d+)\}", r"*\1**0.5", number).replace("π", "*3.141592653589793")
    scale, dimension = {
        "": (1, ""), "°": (1, "angle"), "mm": (1e-3, "length"), "cm": (1e-2, "length"), "m": (1, "length"),
        "海里": (1852, "length"), "cm²": (1e-4, "area"), "m²": (1, "area"), "小时": (3600, "time"), "秒": (1, "time"),
    }[unit]  # fmt: skip
    return eval(re.sub(r"(^|[(+-])\*", r"\1", number)), (scale, dimension)  # the file is ours


def test_every_truth_of_geoqa_equals_itself_and_those_of_the_same_value_alone() -> None:
    truths = [line for line in GEOQA_TRUTHS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert len(set(truths)) == 245
    slow = {truth: _by_float(truth) for truth in truths}
    for truth, answer in itertools.product(truths, repeat=2):
        (x, (x_scale, x_unit)), (y, (y_scale, y_unit)) = slow[truth], slow[answer]
        both = bool(x_unit and y_unit)
        same = math.isclose(x * x_scale, y * y_scale) and x_unit == y_unit if both else math.isclose(x, y)
        assert is_correct(f"<answer>{answer}</answer>", truth, "geometry", "strict") is same, (answer, truth)
