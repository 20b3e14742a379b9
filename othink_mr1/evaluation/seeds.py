"""The results of several seeds in one table: means, their intervals, and differences from seed to seed.

An interval over items (tables.py) says how sure a model's accuracy is; one over seeds, how much a method's accuracy
changes when everything is drawn and trained anew. R1-V's accuracies swing between runs, so one seed shows little.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from othink_mr1.answers import PROTOCOLS
from othink_mr1.evaluation.statistics import differs_from_zero, holm, mean_interval, p_text
from othink_mr1.evaluation.tables import KINDS, NAMES, PAIRS
from othink_mr1.names import METHODS, TASKS


def over_seeds(results: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Means and differences over seeds; accuracies as shares.

    Args:
        results: seed -> `tables.results` of its run.

    Returns:
        `{"seeds", "confidence", "same-task": {"rows", "differences"}, "cross-task": ...}`. A row: task, method,
        prompt_kind, and under each protocol values (in the order of the seeds), mean and interval. A difference: by
        the strict protocol, with the t-test's p-value, corrected within its table, and a verdict.
    """
    confidence = next(iter(results.values()))["confidence"]
    found: dict[str, Any] = {"seeds": sorted(results), "confidence": confidence}
    for kind in KINDS:
        tables = [results[seed][kind.replace("-", "_")] for seed in sorted(results)]
        found[kind] = {
            "rows": [_row(rows, confidence) for rows in zip(*tables, strict=True)],
            "differences": _differences(tables, confidence),
        }
    return found


def _row(rows: Sequence[Mapping[str, Any]], confidence: float) -> dict[str, Any]:
    row: dict[str, Any] = {key: rows[0][key] for key in ("task", "method", "prompt_kind")}
    for protocol in PROTOCOLS:
        row[protocol] = _summary([one[protocol]["accuracy"] for one in rows], confidence)
    return row


def _summary(values: list[float], confidence: float) -> dict[str, Any]:
    mean, low, high = mean_interval(values, confidence)
    return {"values": values, "mean": mean, "interval": [low, high] if len(values) > 1 else None}


def _differences(tables: Sequence[Sequence[Mapping[str, Any]]], confidence: float) -> list[dict[str, Any]]:
    by_model = [{(r["task"], r["method"]): r for r in rows if r["prompt_kind"] == "reasoning"} for rows in tables]
    found = []
    for task in TASKS:
        for first, second in PAIRS:
            values = [of[task, first]["strict"]["accuracy"] - of[task, second]["strict"]["accuracy"] for of in by_model]
            summary = _summary(values, confidence)
            found.append({"task": task, "first": first, "second": second, **summary, "p": differs_from_zero(values)})
    for difference, adjusted in zip(found, holm([one["p"] for one in found]), strict=True):
        word = "better" if difference["mean"] > 0 else "worse"
        shown = adjusted < 1 - confidence
        difference |= {
            "p_adjusted": adjusted,
            "verdict": word if shown else f"no difference shown over {_seeds(len(tables))}",
        }
    return found


def _seeds(count: int) -> str:
    return f"{count} seeds" if count != 1 else "one seed"


def markdown(found: Mapping[str, Any], protocol: str = "strict") -> str:
    """The tables for people: percent, `mean (low to high)`, and what the differences show."""
    seeds = ", ".join(map(str, found["seeds"]))
    lines = [f"Mean accuracy, %, over the seeds {seeds} ({100 * found['confidence']:.0f}% interval, Student's t)", ""]
    for kind in KINDS:
        rows = {(row["task"], row["method"], row["prompt_kind"]): row for row in found[kind]["rows"]}
        lines += [f"| {kind} | {' | '.join(TASKS)} |", "| --- |" + " ---: |" * len(TASKS)]
        for method, asked in (("base", "direct"), *((method, "reasoning") for method in ("base", *METHODS))):
            shown = [rows.get((task, method, asked)) for task in TASKS]
            if any(shown):
                name = NAMES[method] + (" (asked for the number only)" if asked == "direct" else "")
                lines.append(f"| {name} | " + " | ".join(_cell(row[protocol]) if row else "" for row in shown) + " |")
        lines.append("")
        lines += [_sentence(difference) for difference in found[kind]["differences"]]
        lines.append("")
    return "\n".join(lines)


def _cell(summary: Mapping[str, Any]) -> str:
    mean = f"{100 * summary['mean']:.1f}"
    if summary["interval"] is None:
        return mean
    low, high = summary["interval"]
    # t knows nothing of the ends of the scale
    return f"{mean} ({100 * max(low, 0):.1f} to {100 * min(high, 1):.1f})"


def _sentence(difference: Mapping[str, Any]) -> str:
    first, second = NAMES[difference["first"]], NAMES[difference["second"]]
    numbers = f"{100 * difference['mean']:+.1f} points, {p_text(difference['p_adjusted'])} (corrected)"
    if difference["verdict"] in ("better", "worse"):
        return f"- {difference['task']}: {first} is {difference['verdict']} than {second}: {numbers}"
    return f"- {difference['task']}: {first} and {second}: {difference['verdict']}: {numbers}"
