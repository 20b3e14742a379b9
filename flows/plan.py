"""What would run, and why.

DVC's status is not transitive and looks at the parameters on disk. Here the graph is walked, and the parameters are
those that the selection at hand would give: nothing is written to find out.
"""

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flows import lockfile
from othink_mr1.errors import UserError
from othink_mr1.names import TASKS

PARAMS_FILE = ".othink/params.yaml"
# What follows the last DVC stage: outward acts, which are no stages because they write to other systems.
ACTS = (*(f"register@{task}" for task in TASKS), *(f"promote@{task}" for task in TASKS), "report")

RUN, CACHED, OUTSIDE = "run", "cached", "outside"


class UnknownStepError(UserError):
    """A step that does not exist was asked for: a mistake in the call."""


@dataclass
class StepPlan:
    """What happens to one step: `run`, `cached` (it is up to date) or `outside` (not among those asked for)."""

    name: str
    action: str
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Node:
    """A DVC stage: the steps that it follows, and what DVC knows of it against what lies on the disk."""

    name: str
    upstream: tuple[str, ...]
    params: tuple[str, ...]
    locked_params: Mapping[str, Any] | None
    differences: tuple[str, ...]
    missing: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def ran(self) -> bool:
        """Whether the stage ever ended well here."""
        return self.locked_params is not None


def read_graph(root: Path) -> dict[str, Node]:
    """The stages of dvc.yaml in an order in which they can run, with what changed since each ran last.

    Raises:
        UserError: DVC cannot read the project.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    locked = lockfile.read(root)
    try:
        # From a sub-folder DVC would name stages and paths relative to that.
        with contextlib.chdir(root), contextlib.closing(Repo(str(root))) as repo:
            stages = {stage.addressing: stage for stage in repo.index.stages}
            upstream = {
                stage.addressing: tuple(sorted(other.addressing for other in repo.index.graph.successors(stage)))
                for stage in stages.values()
            }
            nodes = {
                name: _node(stage, upstream[name], locked.get(name))
                for name, stage in stages.items()
                if stage.cmd is not None
            }
    except DvcException as error:
        raise UserError(f"DVC cannot read the project: {str(error).splitlines()[0]}") from None
    return {name: nodes[name] for name in _sorted(upstream) if name in nodes}


def make_plan(
    graph: Mapping[str, Node],
    params: Mapping[str, Any],
    current_params: Mapping[str, Any] | None,
    from_step: str | None = None,
    only: str | None = None,
    force: bool = False,
) -> dict[str, StepPlan]:
    """Decide for each step whether it runs.

    Args:
        graph: `read_graph`.
        params: the parameters that are to be in force, resolved.
        current_params: those in `.othink/params.yaml`; None where there are none.
        from_step: begin at this step: only it and what follows from it may run.
        only: only this step may run. Both names may be short; see `match_steps`.
        force: run what may run even if it is up to date.

    Raises:
        UnknownStepError: no step has the name.
    """
    wanted = _wanted(graph, from_step, only)
    plan: dict[str, StepPlan] = {}
    for name, node in graph.items():
        reasons = _resolve_reasons(node, params, current_params) if name == "resolve" else _reasons(node, params)
        reasons += [f"follows {other}" for other in node.upstream if _runs(plan, other)]
        if name not in wanted:
            plan[name] = StepPlan(name, OUTSIDE if name != "resolve" or not reasons else RUN, reasons)
        elif force and name != "resolve":
            plan[name] = StepPlan(name, RUN, ["--force", *reasons])
        else:
            plan[name] = StepPlan(name, RUN if reasons else CACHED, reasons)
    for name in ACTS:
        plan[name] = StepPlan(name, RUN if name in wanted else OUTSIDE)
    return plan


def check_inputs(graph: Mapping[str, Node], plan: Mapping[str, StepPlan]) -> None:
    """Refuse a plan that leaves out a step whose output is needed and not there.

    DVC would delete the outputs of the step that then fails.

    Raises:
        UserError: names the missing file and the step that makes it.
    """
    makers = {out: name for name, node in graph.items() for out in node.outs}
    for name, node in graph.items():
        if plan[name].action != RUN:
            continue
        for path in node.missing:
            maker = next((makers[out] for out in makers if path == out or path.startswith(f"{out}/")), None)
            if maker is None:
                raise UserError(f"{name} needs {path}, which is missing: restore it, for example with git")
            if plan[maker].action == OUTSIDE:
                raise UserError(f"{name} needs {path}, which is missing: run `othink run --from {maker}`")


def match_steps(names: Iterable[str], word: str) -> list[str]:
    """The steps that a name means: the step itself, or all that have the word as a part.

    `train` means the six training steps, `grpo_d` all steps of GRPO-D, `grpo_d-counting` those of that model,
    `counting` all of that task.

    Raises:
        UnknownStepError: no step has the name.
    """
    names = list(names)
    if word in names:
        return [word]
    found = [name for name in names if word in (*re.split("[@-]", name), name.partition("@")[2])]
    if found:
        return found
    words = dict.fromkeys(part for name in names for part in (name, *re.split("[@-]", name)))
    close = difflib.get_close_matches(word, list(words), n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise UnknownStepError(f"step {word!r} is unknown; {guess}steps are {', '.join(names)}")


def dump(params: Mapping[str, Any]) -> str:
    """Parameters as the text of `.othink/params.yaml`, as `resolve` writes it."""
    return yaml.safe_dump(dict(params), sort_keys=False, allow_unicode=True)


def _node(stage: Any, upstream: tuple[str, ...], locked: Mapping[str, Any] | None) -> Node:
    """Read one stage of DVC's index, file by file: `Stage.status` would wait for locks that running stages hold."""
    from dvc.dependency.param import ParamsDependency

    # By name: the evaluation of the base names that twice.
    files = list({str(dep): dep for dep in stage.deps if not isinstance(dep, ParamsDependency)}.values())
    differences: list[str] = []
    missing = [str(dep) for dep in files if not dep.exists]
    if locked is not None:
        if stage.cmd_changed:
            differences.append("its command changed")
        differences += [_difference(dep, "changed") for dep in files if dep.workspace_status()]
        differences += [_difference(out, "was changed") for out in stage.outs if _out_differs(out)]
    return Node(
        name=stage.addressing,
        upstream=upstream,
        params=tuple(key for dep in stage.params for key in dep.params),
        locked_params=None if locked is None else (locked.get("params") or {}).get(PARAMS_FILE, {}),
        differences=tuple(differences),
        missing=tuple(missing),
        outs=tuple(str(out) for out in stage.outs),
    )


def _out_differs(out: Any) -> bool:
    # What `resolve` writes is held against the parameters in memory instead.
    return str(out) != PARAMS_FILE and bool(out.workspace_status())


def _difference(item: Any, changed: str) -> str:
    status = item.workspace_status().get(str(item))
    return f"{item} " + {"deleted": "is missing", "new": "is new"}.get(status, changed)


def _reasons(node: Node, params: Mapping[str, Any]) -> list[str]:
    if node.locked_params is None:
        return ["never ran"]
    reasons = []
    for key in node.params:
        before, after = node.locked_params.get(key), _lookup(params, key)
        reasons += _changes(key, before, after)
    return reasons + list(node.differences)


def _resolve_reasons(node: Node, params: Mapping[str, Any], current: Mapping[str, Any] | None) -> list[str]:
    if current is None or not node.ran:
        return ["never ran"]
    changes = [change for key in {**current, **params} for change in _changes(key, current.get(key), params.get(key))]
    if len(changes) > 3:
        changes = [f"{len(changes)} parameters change"]
    return changes + list(node.differences)


def _changes(key: str, before: Any, after: Any) -> list[str]:
    """The leaves that differ, as "key: old → new"."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [change for part in keys for change in _changes(f"{key}.{part}", before.get(part), after.get(part))]
    return [] if before == after else [f"{key}: {_short(before)} → {_short(after)}"]


def _short(value: Any) -> str:
    text = "not set" if value is None else yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    text = text.removesuffix("\n...").strip()
    return text if len(text) <= 40 else f"{text[:39]}…"


def _lookup(params: Mapping[str, Any], dotted: str) -> Any:
    value: Any = params
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _wanted(graph: Mapping[str, Node], from_step: str | None, only: str | None) -> set[str]:
    names = [*graph, *ACTS]
    wanted = set(names)
    if from_step is not None:
        wanted &= set(_followers(graph, match_steps(names, from_step)))
    if only is not None:
        wanted &= set(match_steps(names, only))
    return wanted


def _followers(graph: Mapping[str, Node], first: Sequence[str]) -> list[str]:
    """`first` and everything that follows from it; the acts follow from every stage, in their order."""
    found = list(first)
    for name, node in graph.items():
        if name not in found and any(other in found for other in node.upstream):
            found.append(name)
    acts = [name for name in found if name in ACTS]
    kinds = [name.partition("@")[0] for name in ACTS]
    begin = 0 if any(name in graph for name in found) else min(kinds.index(name.partition("@")[0]) for name in acts)
    return [name for name in found if name in graph] + (list(ACTS[begin:]) if begin == 0 else _acts_after(acts))


def _acts_after(first: Sequence[str]) -> list[str]:
    tasks = {name.partition("@")[2] for name in first}
    order = list(dict.fromkeys(name.partition("@")[0] for name in ACTS))
    begin = min(order.index(name.partition("@")[0]) for name in first)
    return [
        name
        for name in ACTS
        if order.index(name.partition("@")[0]) >= begin and (name == "report" or name.partition("@")[2] in tasks)
    ]


def _runs(plan: Mapping[str, StepPlan], name: str) -> bool:
    # `resolve` alone changes nothing: what reads a changed parameter says so itself.
    return name != "resolve" and name in plan and plan[name].action == RUN


def _sorted(upstream: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Every stage after those it follows; ties in the order of dvc.yaml."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for other in upstream[name]:
                visit(other)
            order.append(name)

    for name in upstream:
        visit(name)
    return order
