"""What the results say in plain words. Only a test that passed makes a "better" or a "worse"."""

from collections.abc import Mapping
from typing import Any

from othink_mr1.evaluation.statistics import p_text
from othink_mr1.evaluation.tables import NAMES, markdown, model_for
from othink_mr1.names import TASKS
from othink_mr1.report.facts import Facts

CANDIDATE = "grpo_d"


def percent(share: float, places: int = 1) -> str:
    """`68.3%`."""
    return f"{100 * share:.{places}f}%"


def points(share: float) -> str:
    """`+38.3`, with a true minus sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def comparison_between(results: Mapping[str, Any], kind: str, task: str, other: str) -> dict[str, Any] | None:
    """The comparison of GRPO-D with `other` on `task`."""
    wanted = (model_for(CANDIDATE, task, kind), model_for(other, task, kind), task)
    for found in results["comparisons"][kind]:
        if (found["first"], found["second"], found["task"]) == wanted:
            return dict(found)
    return None


def headline(results: Mapping[str, Any]) -> str:
    """One sentence on GRPO-D against the base, on each task it was trained on."""
    by_word: dict[str, list[str]] = {"better": [], "worse": [], "": []}
    for task in TASKS:
        found = comparison_between(results, "same-task", task, "base")
        if found is not None:
            by_word[found["verdict"] if found["verdict"] in by_word else ""].append(task)
    parts = []
    if by_word["better"]:
        parts.append(f"GRPO-D is better than its base on {_both(by_word['better'])}")
    if by_word["worse"]:
        parts.append(f"{'it' if parts else 'GRPO-D'} is worse than its base on {_both(by_word['worse'])}")
    if by_word[""]:
        what = _both(by_word[""])
        parts.append(
            f"no difference is shown on {what}" if parts else f"No difference from the base is shown on {what}"
        )
    return "; ".join(parts) + "."


def verdict_sentence(found: Mapping[str, Any], first: str, second: str) -> str:
    """A comparison as a sentence with its interval and p-value."""
    low, high = (points(bound) for bound in found["interval"])
    numbers = f"{points(found['difference'])} points ({low} to {high}), {p_text(found['p_adjusted'])}"
    if found["verdict"] in ("better", "worse"):
        return f"{first} is {found['verdict']} than {second}: {numbers}."
    return f"{first} and {second}: {found['verdict']}. Measured: {numbers}."


def verdicts(results: Mapping[str, Any], kind: str, task: str) -> list[dict[str, str]]:
    """GRPO-D against the base, SFT and GRPO on one task: `{"word", "sentence"}`, word better, worse or open."""
    told = []
    for other in ("base", "sft", "grpo"):
        found = comparison_between(results, kind, task, other)
        if found is not None:
            word = found["verdict"] if found["verdict"] in ("better", "worse") else "open"
            name = "the base" if other == "base" else NAMES[other]
            told.append({"word": word, "sentence": verdict_sentence(found, NAMES[CANDIDATE], name)})
    return told


def improvable_note() -> str:
    """What must be said wherever the demo's figures are shown."""
    return (
        "The base model of this run was made improvable: it was trained here, from nothing, on a mixture of answering "
        "habits, some of them systematically wrong, so that training has something to bring out. The figures show that "
        "the pipeline and the methods work; they say nothing about how much a real model would gain."
    )


def summary_markdown(
    results: Mapping[str, Any], facts: Facts | None = None, gates: Mapping[str, Any] | None = None
) -> str:
    """The report in short, as Markdown whose lines are not indented (Prefect shows indented ones as code)."""
    lines = [f"## {headline(results)}", ""]
    if results["improvable_base"]:
        lines += [f"> {improvable_note()}", ""]
    for kind, title in (("same-task", "Same task"), ("cross-task", "Cross task")):
        lines += [f"### {title}: accuracy, % ({percent(results['confidence'], 0)} interval)", ""]
        lines += [markdown(results, kind)]
        lines += [f"- **{task}**: {told['sentence']}" for task in TASKS for told in verdicts(results, kind, task)]
        lines += [""]
    for task, gate in (gates or {}).items():
        outcome = "promoted" if gate.get("promoted") else "not promoted"
        lines += [
            f"- **{task}**: {gate.get('candidate', 'candidate')} {outcome} ({gate.get('reason', 'no reason given')})"
        ]
    if facts is not None and facts.commit:
        lines += ["", f"Commit `{facts.commit[:12]}`{' with uncommitted changes' if facts.dirty else ''}."]
    return "\n".join(line.strip() for line in lines) + "\n"


def _both(names: list[str]) -> str:
    return " and ".join(names)
