"""The strict protocol, held against pairs judged by hand."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from othink_mr1.answers import TruthError, extract_answer, is_correct, normalise, read
from othink_mr1.errors import UserError

# One truth a line, after lines that say where they are from.
GEOQA_TRUTHS = Path(__file__).with_name("geoqa_truths.txt")

RIGHT = [
    ("140", "140°"),
    ("140°", "140"),
    ("x=5", "5"),
    ("x = 5", "5"),
    ("5 = x", "5"),
    ("angle CED is 140°", "140°"),
    ("∠CED = 140°", "140°"),
    (r"\angle CED = 140^\circ", "140°"),
    (r"70^\circ", "70°"),
    (r"$70^{\circ}$", "70°"),
    ("70 degrees", "70°"),
    ("22°30'", "22.5°"),
    ("0.8", r"\frac{4}{5}"),
    ("4/5", r"\frac{4}{5}"),
    (r"\frac45", "0.8"),
    (r"\dfrac{8}{10}", r"\frac{4}{5}"),
    (r"3\frac{1}{2}", "3.5"),
    ("3 1/2", "3.5"),
    (r"2\sqrt{3}", "2√{3}"),
    ("2√3", "2√{3}"),
    ("√12", "2√{3}"),
    ("6/√3", "2√{3}"),
    ("2*sqrt(3)", "2√{3}"),
    ("2/(√3-1)", "√{3}+1"),
    (r"\frac{2\sqrt{5}}{5}", r"\frac{2}{5}√{5}"),
    ("5 \\sqrt { 3 }", "5√3"),
    ("65π", "65π"),
    (r"65\pi", "65π"),
    ("65pi", "65π"),
    ("π/6", r"\frac{1}{6}π"),
    ("8cm", "8 cm"),
    ("8厘米", "8cm"),
    ("80cm", "0.8m"),
    ("8 centimeters", "8cm"),
    ("27 square centimeters", "27cm^{2}"),
    ("5cm²", "5cm^2^"),
    ("16π m^2", "16π平方米"),
    (r"\boxed{8\text{ cm}}", "8cm"),
    ("1,200", "1200"),
    ("12,345,678", "12345678"),
    (r"1\,200", "1200"),
    ("２４", "24"),
    ("-3", "−3"),
    ("20%", "0.2"),
    ("5.", "5"),
    ("**5**", "5"),
    ("2√3 ≈ 3.46", "2√{3}"),
    ("1/2 = 0.5", "0.5"),
]
WRONG = [
    ("14", "140°"),
    ("-140", "140"),
    ("8m", "8cm"),
    ("70 cm", "70°"),
    ("8 cm²", "8 cm"),
    ("3.46", "2√{3}"),
    ("2", "2√{3}"),
    ("65", "65π"),
    ("0.333", r"\frac{1}{3}"),
    ("5 or 7", "5"),
    ("5, 7", "5"),
    ("5 7", "5"),
    ("1,20", "120"),
    ("not 5", "5"),
    ("about 5", "5"),
    ("5 apples", "5"),
    ("", "5"),
    ("?", "5"),
    ("1/0", "5"),
    ("√(-4)", "2"),
    ("0x5", "5"),
    ("5e0", "5"),
    ("__import__('os')", "5"),
]


@pytest.mark.parametrize(("answer", "truth"), RIGHT)
def test_equal_answers_are_right(answer: str, truth: str) -> None:
    assert is_correct(
        f"<think> </think> <answer> {answer} </answer>", f"<answer> {truth} </answer>", "geometry", "strict"
    )


@pytest.mark.parametrize(("answer", "truth"), WRONG)
def test_other_or_unreadable_answers_are_wrong(answer: str, truth: str) -> None:
    assert not is_correct(f"<answer>{answer}</answer>", truth, "geometry", "strict")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("7", True),
        ("007", True),
        ("7.0", True),
        ("seven", True),
        ("Seven objects.", True),
        ("There are 7 items in the image.", True),
        ("The total number of objects is 7", True),
        ("7 or 8", False),
        ("7 red and 2 blue", False),
        ("at least 7", False),
        ("not 7", False),
        ("-7", False),
        ("seventy", False),
        ("twenty seven", False),
        ("1,007", False),
    ],
)
def test_counts_are_read_from_digits_and_words(answer: str, right: bool) -> None:
    assert is_correct(f"<answer>{answer}</answer>", "7", "counting", "strict") is right


def test_larger_number_words() -> None:
    assert is_correct("<answer>twenty-one</answer>", "21", "counting", "strict")
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


def test_every_truth_of_geoqa_is_read_as_equal_to_itself_and_to_no_other_value() -> None:
    truths = [line for line in GEOQA_TRUTHS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert len(set(truths)) == 245
    found = {truth: read(truth, "geometry") for truth in truths}
    assert all(found.values())
    for truth in truths:
        assert is_correct(f"<answer>{truth}</answer>", truth, "geometry", "strict")
        same = {other for other in truths if found[truth] == found[other]}
        assert len({normalise(other) for other in same}) == 1
