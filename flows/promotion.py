"""Which model answers for a task: registration of the candidate, the gates, the champion and the way back.

`champion` is the alias that people and programs use. A version that was champion before stands in the registered
model's tag `othink.past_champions`, the latest last, so that `rollback` can put it back.
"""

import csv
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from othink_mr1 import registry
from othink_mr1.errors import UserError
from othink_mr1.evaluation.predictions import right_items
from othink_mr1.names import METHODS
from othink_mr1.registry import CANDIDATE, CHAMPION, Version, gates
from othink_mr1.registry.candidates import other_task, registered_name
from othink_mr1.settings import Config
from othink_mr1.tracking.connection import store

_PAST = "othink.past_champions"
_ROLLED_BACK = "othink.rolled_back"
# What a refused version was asked last, so that a run which changed nothing need not ask again; and why it was refused.
_ASKED, _REFUSED = "gates.asked", "gates.refused"


@dataclass(frozen=True)
class Promotion:
    """How a promotion came out. `outcome` is promoted, unchanged (nothing to do) or refused."""

    task: str
    version: int
    method: str
    outcome: str
    before: int | None  # the champion until now
    gates: tuple[gates.Gate, ...]
    says: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def register_candidate(
    root: Path, settings: Config, task: str, method: str | None = None, params: Mapping[str, Any] | None = None
) -> Version:
    """Register the task's candidate: the model of `promotion.method`, or of `method` where given.

    Raises:
        UserError: it was not trained or evaluated yet, or MLflow does not answer.
    """
    wanted = method or settings.promotion.method
    chosen = best_method(root, task) if wanted == "best" else wanted
    return registry.register(root, task, chosen, params)


def best_method(root: Path, task: str) -> str:
    """The method whose model was highest on validation when its training ended; the test set is not looked at.

    Raises:
        UserError: a method's curves are missing or hold no validation accuracy.
    """
    registered_name(task)
    # On a tie the first wins: the simpler method.
    return max(METHODS, key=lambda method: _validation(root / "training" / f"{method}-{task}" / "curves.csv"))


def promote(
    root: Path,
    settings: Config,
    task: str,
    version: str | int | None = None,
    new_test_set: bool = False,
    only_new: bool = False,
) -> Promotion:
    """Make a version the champion if it passes the gates.

    Args:
        root: the project's folder.
        settings: for `promotion.alpha` and `promotion.max_cross_task_drop`.
        task: the training task.
        version: number or alias; the candidate if not given.
        new_test_set: the test set was changed on purpose: hold the version against its base, as a first champion,
            and not against a champion that answered other items.
        only_new: do not ask again where the same answers were refused by the same limits before.

    Raises:
        UserError: no such version; MLflow does not answer.
    """
    with registry.locked(root, task):
        before = registry.champion(root, task)
        old = before.version if before else None
        if version is None and not _has_candidate(root, task) and before is not None:
            return _unchanged(before, "is the champion, and no candidate waits", old)
        entry = registry.version(root, task, str(version or CANDIDATE))
        if before is not None and before.version == entry.version:
            return _unchanged(entry, "is the champion already", old)
        if version is None and _ROLLED_BACK in entry.tags:
            return Promotion(
                task, entry.version, entry.method, "refused", old, (),
                f"version {entry.version} was rolled back by hand; "
                f"`othink promote --task {task} {entry.version}` makes it champion again",
            )  # fmt: skip
        against = None if new_test_set else before
        question = _question(settings, entry, against)
        if only_new and entry.tags.get(_ASKED) == question:
            return _unchanged(entry, "stays a candidate, as decided before: " + entry.tags.get(_REFUSED, ""), old)
        mine, theirs = _answers(root, entry, against)
        who = f"champion version {against.version}" if against else "the base"
        changed = gates.test_set_changed(mine, theirs, who)
        if changed:
            why = f"{changed}; {_advice(task, against)}"
            tags = {"gates": "not comparable", **_against(against), _REFUSED: why, _ASKED: question}
            registry.tag(root, entry, tags)
            says = f"version {entry.version} stays a candidate: {why}"
            return Promotion(task, entry.version, entry.method, "refused", old, (), says)
        results = _judge(settings, entry, against, mine, theirs)
        registry.tag(root, entry, _gate_tags(results, against))
        failed = [gate for gate in results if not gate.passed]
        if failed:
            why = "; ".join(gate.says for gate in failed)
            registry.tag(root, entry, {_REFUSED: why, _ASKED: question})
            says = f"version {entry.version} stays a candidate: {why}"
            return Promotion(task, entry.version, entry.method, "refused", old, tuple(results), says)
        _crown(root, task, entry, before)
        says = f"version {entry.version} ({entry.method}) is champion" + (
            f", version {before.version} was" if before else ", the first"
        )
        return Promotion(task, entry.version, entry.method, "promoted", old, tuple(results), says)


def rollback(root: Path, task: str) -> Promotion:
    """Put back the champion before the present one. The one that goes is not promoted again by a scheduled run.

    Raises:
        UserError: there is no champion, or none before it.
    """
    with registry.locked(root, task):
        present = registry.version(root, task, CHAMPION)
        alive = {str(entry.version): entry for entry in registry.versions(root, task)}
        past = [number for number in _past(root, task) if number in alive and number != str(present.version)]
        if not past:
            raise UserError(f"{present.name}: version {present.version} is champion, and none was before it")
        back = alive[past[-1]]
        registry.tag(root, present, {_ROLLED_BACK: time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        _set_past(root, task, past[:-1])
        registry.set_alias(root, task, CHAMPION, back.version)
        says = f"version {back.version} ({back.method}) is champion again, version {present.version} was"
        return Promotion(task, back.version, back.method, "promoted", present.version, (), says)


def _answers(root: Path, entry: Version, against: Version | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Which items the version got right, and which the champion did, or the base where there is none."""
    mine = registry.evidence(root, entry, "predictions.parquet")
    if against is None:
        theirs = registry.evidence(root, entry, "base_predictions.parquet")
    else:
        theirs = registry.evidence(root, against, "predictions.parquet")
    return right_items(mine), right_items(theirs)


def _judge(
    settings: Config, entry: Version, against: Version | None, mine: dict[str, Any], theirs: dict[str, Any]
) -> list[gates.Gate]:
    cross = other_task(entry.task)
    if against is None:
        return gates.first_gates(entry.task, cross, mine, theirs)
    limits = gates.Limits(settings.promotion.alpha, settings.promotion.max_cross_task_drop)
    return gates.champion_gates(entry.task, cross, mine, theirs, f"version {against.version}", limits)


def _advice(task: str, against: Version | None) -> str:
    if against is None:
        return "`othink run` evaluates both again"
    return f"if that is meant, `othink promote --task {task} --new-test-set` compares it with the base instead"


def _crown(root: Path, task: str, entry: Version, before: Version | None) -> None:
    if before is not None:
        _set_past(root, task, [*_past(root, task), str(before.version)])
    # The alias moves last but for the candidate's: a process that dies before has changed nothing that counts.
    registry.set_alias(root, task, CHAMPION, entry.version)
    if CANDIDATE in entry.aliases:
        registry.drop_alias(root, task, CANDIDATE)
    if _ROLLED_BACK in entry.tags:
        registry.untag(root, entry, _ROLLED_BACK)


def _gate_tags(results: list[gates.Gate], against: Version | None) -> dict[str, str]:
    tags = {f"gate.{gate.name}": f"{'passed' if gate.passed else 'failed'}: {gate.says}" for gate in results}
    passed = all(gate.passed for gate in results)
    return tags | {"gates": "passed" if passed else "failed", **_against(against)}


def _against(against: Version | None) -> dict[str, str]:
    return {"gates.against": f"{against.version}" if against else "base"}


def _unchanged(entry: Version, why: str, champion: int | None) -> Promotion:
    says = f"version {entry.version} ({entry.method}) {why}"
    return Promotion(entry.task, entry.version, entry.method, "unchanged", champion, (), says)


def _question(settings: Config, entry: Version, against: Version | None) -> str:
    """What the gates' answers depend on: both versions' evaluations and the limits."""
    other = f"{against.version} {against.tags.get('othink.evaluation', '')}" if against else "base"
    limits = f"{settings.promotion.alpha:g} {settings.promotion.max_cross_task_drop:g}"
    return f"{entry.tags.get('othink.evaluation', '')} against {other} within {limits}"


def _has_candidate(root: Path, task: str) -> bool:
    return any(CANDIDATE in entry.aliases for entry in registry.versions(root, task))


def _past(root: Path, task: str) -> list[str]:
    name = registered_name(task)
    model = store(root).require(lambda client: client.get_registered_model(name))
    return [number for number in model.tags.get(_PAST, "").split(",") if number]


def _set_past(root: Path, task: str, numbers: list[str]) -> None:
    name = registered_name(task)
    store(root).require(lambda client: client.set_registered_model_tag(name, _PAST, ",".join(numbers)))


def _validation(curves: Path) -> float:
    try:
        with curves.open(newline="") as file:
            values = [row["eval_accuracy"] for row in csv.DictReader(file) if row.get("eval_accuracy")]
    except OSError:
        raise UserError(f"{curves} is missing: promotion.method best needs every method trained") from None
    if not values:
        raise UserError(f"{curves}: no eval_accuracy; promotion.method best needs validation (set eval_steps)")
    return float(values[-1])
