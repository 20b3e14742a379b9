"""What a run was asked to do, worked out before Prefect is imported: parameters, graph and plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flows import collector, plan
from othink_mr1 import config, digests, stages
from othink_mr1.errors import UserError
from othink_mr1.settings import Config


@dataclass(frozen=True)
class Request:
    """One run: what the user chose, and what follows from it."""

    root: Path
    profile: str | None
    overrides: tuple[str, ...]
    settings: Config
    params: dict[str, Any]
    graph: dict[str, plan.Node]
    steps: dict[str, plan.StepPlan]
    force: bool = False
    resume_anyway: bool = False
    absent: tuple[str, ...] = field(default=())


def prepare(
    root: Path,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    from_step: str | None = None,
    only: str | None = None,
    force: bool = False,
    looking: bool = False,
    resume_anyway: bool = False,
) -> Request:
    """Work out what a run would do. Writes nothing but the digests of a source that is new.

    Args:
        root: the project's folder.
        profile: a profile of params.yaml; None is the demo.
        overrides: `--set` texts.
        from_step: see `plan.make_plan`, as `only` and `force`.
        resume_anyway: training goes on from checkpoints that other code has made.
        looking: the request will only be looked at: a source whose file is absent is no error then.

    Raises:
        UserError: the configuration, a step's name or an input is wrong.
    """
    with collector.paused():
        graph = plan.read_graph(root)
    settings = config.load(root, profile, overrides)
    with digests.remembered(root / stages.WORK / "digests.json"):
        params = config.resolve(profile, overrides, root, absent_ok=looking)
    # As the steps will read them: through YAML.
    params = yaml.safe_load(plan.dump(params))
    steps = plan.make_plan(graph, params, current_params(root), from_step, only, force)
    if not looking:
        plan.check_inputs(graph, steps)
    absent = tuple(path for key, path in params["local"]["paths"].items() if _absent(params, key))
    return Request(root, profile, tuple(overrides), settings, params, graph, steps, force, resume_anyway, absent)


def current_params(root: Path) -> dict[str, Any] | None:
    """The parameters that the last `resolve` wrote, or None."""
    try:
        content = yaml.safe_load((root / plan.PARAMS_FILE).read_text())
    except (OSError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None


def stage_params(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one stage under their own names, so that runs of different methods compare in MLflow.

    Raises:
        UserError: the parameters hold nothing for the stage.
    """
    kind, _, which = name.partition("@")
    common = {key: params[key] for key in ("seed", "threads")}
    try:
        match kind:
            case "prepare_data":
                return common | params["data"][which]
            case "base_model":
                return common | params["base"]
            case "train":
                method, _, task = which.partition("-")
                return common | params["train"][method][task]
            case "evaluate":
                return common | params["evaluation"]
            case _:
                return dict(params.get(kind) or {})
    except KeyError as error:
        raise UserError(f"{stages.WORK}/params.yaml: {error} is missing; run `python -m steps.resolve`") from None


def _absent(params: Mapping[str, Any], key: str) -> bool:
    value: Any = params
    for part in key.split("."):
        value = value[part]
    return value.get("sha256") == "absent"
