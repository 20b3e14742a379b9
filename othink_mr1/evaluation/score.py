"""From completions to rows of predictions and to accuracies."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1.answers import PROTOCOLS, TruthError, extract_answer, format_ok, is_correct, normalise
from othink_mr1.errors import UserError
from othink_mr1.evaluation.statistics import wilson_interval

if TYPE_CHECKING:
    from othink_mr1.grpo.rollout import Completion

_PARALLEL = 8  # threads that wait for math_verify's processes
MAX_LINE_BYTES = 64 * 2**20


def judge(completions: Sequence[str], solutions: Sequence[str], task: str, protocol: str) -> list[bool | None]:
    """Whether each completion is right; None where the solution itself cannot be read.

    Raises:
        UserError: unknown task or protocol, or math-verify is needed and missing.
    """

    def one(pair: tuple[str, str]) -> bool | None:
        try:
            return is_correct(*pair, task, protocol)
        except TruthError:
            return None

    pairs = list(zip(completions, solutions, strict=True))
    if protocol == "strict":
        return [one(pair) for pair in pairs]
    with ThreadPoolExecutor(_PARALLEL) as threads:
        return list(threads.map(one, pairs))


def prediction_rows(
    samples: Mapping[str, Sequence[str]],
    task: str,
    prompt_kind: str,
    prompts: Sequence[str],
    completions: "Sequence[Completion]",
    method: str,
    trained_on: str,
) -> list[dict[str, Any]]:
    """One row of predictions.parquet a sample, in order.

    A direct prompt asks for the bare number, so a completion without an `<answer>` block counts as the block's
    content there.

    Args:
        samples: the columns sample_id and solution.
    """
    texts = [completion.text for completion in completions]
    scored = [_as_block(text) for text in texts] if prompt_kind == "direct" else texts
    verdicts = {protocol: judge(scored, samples["solution"], task, protocol) for protocol in PROTOCOLS}
    return [
        {
            "sample_id": samples["sample_id"][i],
            "task": task,
            "trained_on": trained_on,
            "method": method,
            "prompt_kind": prompt_kind,
            "prompt": prompts[i],
            "completion": texts[i],
            "answer_read": _answer_read(scored[i]),
            "correct_strict": verdicts["strict"][i] is True,
            "correct_r1v": verdicts["r1v"][i] is True,
            "format_ok": format_ok(texts[i]),
            "clipped": completions[i].clipped,
            "tokens": completions[i].token_count,
            "solution": samples["solution"][i],
        }
        for i in range(len(texts))
    ]


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The accuracies of one task's rows, as metrics.json holds them; shares between 0 and 1."""
    n = len(rows)
    share = {name: sum(bool(row[name]) for row in rows) / n if n else 0.0 for name in ("format_ok", "clipped")}
    return {
        "n": n,
        **{protocol: accuracy(sum(row[f"correct_{protocol}"] for row in rows), n) for protocol in PROTOCOLS},
        "format_accuracy": share["format_ok"],
        "clipped": share["clipped"],
        "mean_tokens": sum(row["tokens"] for row in rows) / n if n else 0.0,
    }


def accuracy(correct: int, n: int) -> dict[str, Any]:
    """`{"correct", "accuracy", "ci95"}`, the interval by Wilson's score."""
    return {
        "correct": correct,
        "accuracy": correct / n if n else 0.0,
        "ci95": list(wilson_interval(correct, n)),
    }


def score_file(path: Path, task: str, protocol: str) -> dict[str, Any]:
    """Scores finished completions of any engine: a JSON object a line with `completion` and `solution`.

    Returns:
        `{"n", "correct", "accuracy", "format_accuracy", "ci95"}`.

    Raises:
        UserError: the file cannot be read, a line is not such an object, or a solution cannot be read.
    """
    rows = list(_read_lines(path))
    if not rows:
        raise UserError(f"{path}: no rows; each line is an object with the texts completion and solution")
    completions = [completion for _, completion, _ in rows]
    verdicts = judge(completions, [solution for _, _, solution in rows], task, protocol)
    for (line, _, solution), verdict in zip(rows, verdicts, strict=True):
        if verdict is None:
            shown = solution if len(solution) <= 60 else solution[:57] + "..."
            raise UserError(f"{path}:{line}: solution {shown!r} cannot be read as a {task} answer under {protocol}")
    n = len(rows)
    right = accuracy(sum(verdict is True for verdict in verdicts), n)
    return {
        "n": n,
        "correct": right["correct"],
        "accuracy": right["accuracy"],
        "format_accuracy": sum(format_ok(completion) for completion in completions) / n,
        "ci95": right["ci95"],
    }


def _read_lines(path: Path) -> Iterable[tuple[int, str, str]]:
    """(line number, completion, solution) of each line that is not empty."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
                if len(raw) > MAX_LINE_BYTES:
                    raise UserError(f"{path}:{number}: longer than {MAX_LINE_BYTES // 2**20} MB; one object a line")
                if raw.strip():
                    yield (number, *_parse_line(raw, f"{path}:{number}"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _parse_line(raw: bytes, where: str) -> tuple[str, str]:
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__}, should be an object with completion and solution")
    for key in ("completion", "solution"):
        if key not in row:
            raise UserError(f"{where}: {key} is missing; an object with completion and solution is needed")
    completion, solution = row["completion"], row["solution"]
    if isinstance(solution, int | float) and not isinstance(solution, bool):
        solution = str(solution)  # R1-V's counting file holds bare numbers
    for key, value in (("completion", completion), ("solution", solution)):
        if not isinstance(value, str):
            raise UserError(f"{where}: {key} is {type(value).__name__}, should be text")
    return completion, solution


def _as_block(text: str) -> str:
    return text if extract_answer(text) is not None else f"<answer> {text} </answer>"


def _answer_read(completion: str) -> str | None:
    answer = extract_answer(completion)
    return None if answer is None else normalise(answer[:200])
