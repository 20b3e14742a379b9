"""What the report shows of the data and of the completions, read from the project's files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from othink_mr1.answers import truth_of
from othink_mr1.data.reading import Samples, read_split
from othink_mr1.evaluation.predictions import read_predictions
from othink_mr1.evaluation.tables import NAMES, model_for
from othink_mr1.names import METHODS
from othink_mr1.report.pictures import data_uri

SPLITS = ("train", "validation", "test")
_LONGEST_COMPLETION = 900
_PICTURES = 8
# Items of each kind, so that wins and losses show alike.
_PER_KIND = 2
_KINDS = (
    ("won", "GRPO-D right, base wrong"),
    ("lost", "GRPO-D wrong, base right"),
    ("behind", "GRPO-D wrong, SFT or GRPO right"),
    ("none", "All wrong"),
)


@dataclass(frozen=True)
class TaskData:
    """The data of one task."""

    task: str
    rows: dict[str, int]  # split -> rows
    sources: dict[str, str]  # split -> where its rows came from
    quarantined: list[tuple[str, int]]  # (reason, rows), most first
    examples: list[dict[str, str]]  # picture, question, truth


@dataclass(frozen=True)
class Answer:
    """One model's completion of one item."""

    method: str
    name: str
    text: str
    left_out: int  # characters
    read: str
    correct: bool
    clipped: bool


@dataclass(frozen=True)
class Item:
    """One test item and what each model answered."""

    kind: str
    heading: str
    picture: str
    question: str
    truth: str
    answers: list[Answer]


@dataclass(frozen=True)
class SideBySide:
    """Chosen items of one task, and how all of them fall."""

    task: str
    counts: dict[str, int]  # both, won, lost, none
    n: int
    items: list[Item]


def task_data(root: Path, task: str) -> TaskData:
    """The summary of data/<task>.

    Raises:
        UserError: a split is missing.
    """
    folder = root / "data" / task
    splits = {split: read_split(folder, split) for split in SPLITS}
    test = splits["test"]
    chosen = _spread(len(test), _PICTURES)
    examples = [
        {"picture": data_uri(test[i]["image"]), "question": test[i]["problem"], "truth": test[i]["answer"]}
        for i in chosen
    ]
    return TaskData(
        task,
        {split: len(samples) for split, samples in splits.items()},
        {split: _source(samples) for split, samples in splits.items()},
        _quarantined(folder / "quarantine.parquet"),
        examples,
    )


def side_by_side(root: Path, task: str) -> SideBySide:
    """Completions of the base and of the models trained on `task`, on the same items.

    Items are taken in the order of the file from each kind of outcome, so nobody picked them.
    """
    methods = ("base", *METHODS)
    answers = {method: _answers(root, model_for(method, task, "same-task"), task) for method in methods}
    test = read_split(root / "data" / task, "test")
    n = min(len(test), *(len(found) for found in answers.values()))
    kinds = [_kind({method: answers[method][i]["correct_strict"] for method in methods}) for i in range(n)]
    right = {m: [row["correct_strict"] for row in answers[m][:n]] for m in ("base", "grpo_d")}
    pairs = Counter(zip(right["grpo_d"], right["base"], strict=True))
    counts = {
        "both": pairs[True, True],
        "won": pairs[True, False],
        "lost": pairs[False, True],
        "neither": pairs[False, False],
    }
    items = []
    for kind, heading in _KINDS:
        for i in [i for i in range(n) if kinds[i] == kind][:_PER_KIND]:
            items.append(_item(kind, heading, test, i, {method: answers[method][i] for method in methods}))
    return SideBySide(task, counts, n, items)


def _answers(root: Path, model: str, task: str) -> list[dict[str, Any]]:
    rows = read_predictions(root / "evaluation" / model)
    return [row for row in rows if row["task"] == task and row["prompt_kind"] == "reasoning"]


def _kind(right: dict[str, bool]) -> str:
    if right["grpo_d"] != right["base"]:
        return "won" if right["grpo_d"] else "lost"
    if not right["grpo_d"]:
        return "behind" if right["sft"] or right["grpo"] else "none"
    return "both"


def _item(kind: str, heading: str, test: Samples, index: int, answers: dict[str, dict[str, Any]]) -> Item:
    sample = test[index]
    shown = [
        Answer(
            method,
            NAMES[method],
            row["completion"][:_LONGEST_COMPLETION],
            max(0, len(row["completion"]) - _LONGEST_COMPLETION),
            row["answer_read"] or "",
            row["correct_strict"],
            row["clipped"],
        )
        for method, row in answers.items()
    ]
    return Item(kind, heading, data_uri(sample["image"]), sample["problem"], truth_of(sample["solution"]), shown)


def _source(samples: Samples) -> str:
    """`synthetic`, or the names of the files that the rows came from."""
    names = Counter(str(source).rsplit(":", 1)[0] for source in samples.column("source"))
    return ", ".join(name for name, _ in names.most_common(3))


def _quarantined(path: Path) -> list[tuple[str, int]]:
    if not path.is_file():
        return []
    reasons: Sequence[str] = pq.read_table(path, columns=["reason"]).column("reason").to_pylist()
    return Counter(reasons).most_common()


def _spread(n: int, most: int) -> list[int]:
    """At most `most` indices below n, evenly spread."""
    return [i * n // most for i in range(most)] if n > most else list(range(n))
