"""R1-V's protocol: what its scripts count, faults included."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from othink_mr1.answers import format_ok, is_correct, r1v
from othink_mr1.errors import UserError


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("<answer>7</answer>", True),
        ("<answer> 7 </answer>", True),
        ("<answer>\n7\n</answer>", True),
        ("<answer>07</answer>", True),
        ("<answer>7</answer> <answer>8</answer>", True),  # re.search takes the first
        ("<answer>8</answer> <answer>7</answer>", False),
        ("<answer>about 8</answer> <answer>7</answer>", True),  # the first that holds digits alone
        ("<answer>7 items</answer>", False),
        ("<answer>seven</answer>", False),
        ("<answer>-7</answer>", False),
        ("<answer>7.0</answer>", False),
        ("7", False),
        ("<answer>７</answer>", True),  # \\d and int() know the digits of other scripts
        ("<ANSWER>7</ANSWER>", False),
        ("<answer><answer>7</answer></answer>", True),
        ("<answer>7", False),
        ("<answer></answer>", False),
        ("<answer>1,007</answer>", False),
        ("<answer>$7$</answer>", False),
        ("<think><answer>8</answer></think><answer>7</answer>", False),
        ("<answer>" + "7" * 5000 + "</answer>", False),
    ],
)
def test_counting_takes_the_first_block_of_digits(completion: str, right: bool) -> None:
    assert is_correct(completion, "<answer> 7 </answer>", "counting", "r1v") is right


@pytest.mark.parametrize(
    ("completion", "well_formed"),
    [
        ("<think>a</think><answer>1</answer>", True),
        ("<think>a\nb</think>\n\n<answer>1</answer>", True),
        ("<think></think><answer></answer>", True),
        ("<think>a</think> so <think>b</think> <answer>1</answer>", True),  # .*? spans the first </think>
        ("<think>a</think><answer>1</answer> and <answer>2</answer>", True),
        ("<think>a</think> so <answer>1</answer>", False),
        ("<think>a</think><answer>1</answer> ", False),
        (" <think>a</think><answer>1</answer>", False),
        ("<answer>1</answer><think>a</think>", False),
        ("<think>a<answer>1</answer>", False),
        ("<think></think><answer>", False),
        ("", False),
    ],
)
def test_format_is_r1vs_pattern_on_the_whole_completion(completion: str, well_formed: bool) -> None:
    import re

    assert format_ok(completion) is well_formed
    pattern = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
    assert (re.fullmatch(pattern, completion) is not None) is well_formed


def test_format_of_hostile_text_is_linear() -> None:
    start = time.perf_counter()
    assert not format_ok("<think>" + "</think><answer></answer>" * 40_000 + "x")
    assert format_ok("<think>" + "</think> " * 100_000 + "<answer></answer>")
    assert time.perf_counter() - start < 5


# math_verify of the whole completion: a block without spaces is not read
@pytest.mark.parametrize(
    ("completion", "truth", "right"),
    [
        ("<think> so </think> <answer> 70° </answer>", "70°", True),
        ("<think> so </think> <answer> 70 </answer>", "70°", True),
        ("<answer> 7 </answer>", "7", True),
        ("<answer>7</answer>", "7", False),
        ("<answer> 8 </answer>", "7", False),
        ("nothing at all", "7", False),
    ],
)
def test_geometry_counts_what_math_verify_does(completion: str, truth: str, right: bool) -> None:
    pytest.importorskip("math_verify")
    assert is_correct(completion, f"<answer> {truth} </answer>", "geometry", "r1v") is right


ANSWERS = [
    "<answer> 5 </answer>", "<answer>5</answer>", "<answer>\n5\n</answer>", "<ANSWER> 5 </ANSWER>", "<answer> 5",
    "<answer> 4 </answer> <answer> 5 </answer>", "<answer> 5 </answer> <answer> 4 </answer>",
    "<answer><answer> 5 </answer></answer>", "<answer> </answer>", "", " ", "5", "5.0", "05", "-5", "+5", "5%", "500%",
    "so 5", "5 or 4", "4 or 5", "4, 5", "1,200", "1.200", "1200", "$5$", "\\boxed{5}", "\\(5\\)", "x = 5", "5 = x",
    "<answer> x=5 </answer>", "angle CED is 140°", "∠CED = 140", "140°", "140 degrees", "$140^\\circ$", "8cm", "8 cm",
    "8 厘米", "80 mm", "$8\\text{ cm}$", "\\frac{4}{5}", "$\\frac{4}{5}$", "4/5", "0.8", "80\\%", "2√{3}",
    "$2\\sqrt{3}$", "2√3", "3.4641016151377544", "2", "65π", "$65\\pi$", "65", "204.2", "The answer is 5.", "Answer: 5",
    "五", "<think> 180 - 40 = 140 </think> <answer> 140° </answer>", "<think> 140 </think> <answer> 40 </answer>",
    "<think> 5 </think>", "final answer: 5 because 4 + 1 = 5", "(5, 4)", "{5}", "[4, 5]", "5 > 4", "5e0",
    "5²", "<b>5</b>",
]  # fmt: skip


def test_geometry_is_item_for_item_what_r1vs_script_counts() -> None:
    math_verify = pytest.importorskip("math_verify")
    truths = ["5", "140°", "8cm", "\\frac{4}{5}", "2√{3}", "65π", "1200"]
    parsed = {text: math_verify.parse(text) for text in (*ANSWERS, *truths)}
    for completion, truth in itertools.product(ANSWERS, truths):
        answer = parsed[completion]
        counted = answer is not None and float(math_verify.verify(answer, parsed[truth])) > 0
        assert is_correct(completion, truth, "geometry", "r1v") is counted, (completion, truth)


def test_geometry_works_from_many_threads() -> None:
    pytest.importorskip("math_verify")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda i: is_correct(f"it is ${i % 3}$", "2", "geometry", "r1v"), range(24)))
    assert found == [i % 3 == 2 for i in range(24)]


def test_a_worker_past_its_deadline_is_killed_and_the_next_item_is_judged() -> None:
    pytest.importorskip("math_verify")
    start = time.perf_counter()
    assert not r1v.geometry_is_correct("$9^{9^{9^{9^9}}}$", "7", deadline=0.5)
    assert time.perf_counter() - start < 60
    assert r1v.geometry_is_correct("$7$", "7")


def test_closing_ends_the_workers() -> None:
    pytest.importorskip("math_verify")
    assert r1v.geometry_is_correct("$7$", "7")
    pool = r1v._POOL
    assert pool is not None
    processes = [worker.process for worker in pool.idle]
    r1v.close()
    assert processes
    assert all(process.poll() is not None for process in processes)
    assert r1v.geometry_is_correct("$7$", "7")  # and a new one starts


def test_a_missing_package_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    r1v.close()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="math-verify is not installed"):
        is_correct("7", "7", "geometry", "r1v")


def test_a_truth_that_is_no_count_is_an_error_of_the_data() -> None:
    with pytest.raises(UserError, match="is not a whole number"):
        is_correct("<answer>7</answer>", "seven", "counting", "r1v")
