"""The rewards of Eq. 1, as plain functions `f(completions, solutions, **columns) -> list[float | None]`.

None says that a function has nothing to say of a completion (another task's, say). `columns` are the other columns of
the samples, `task` among them, repeated for each completion. Write your own in the same form and name it in
params.yaml as `module:function`.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from othink_mr1.answers import format_ok, is_correct
from othink_mr1.errors import UserError

_LARGEST = 3e38  # of float32, in which rewards are summed
Reward = Callable[..., Sequence[float | None]]


def accuracy_reward(
    completions: Sequence[str],
    solutions: Sequence[str],
    task: Sequence[str],
    protocol: str = "strict",
    **_: Any,
) -> list[float]:
    """1 where the answer read from the completion is the solution's, else 0."""
    return [
        float(is_correct(completion, solution, name, protocol))
        for completion, solution, name in zip(completions, solutions, task, strict=True)
    ]


def format_reward(completions: Sequence[str], solutions: Sequence[str], **_: Any) -> list[float]:
    """1 where the whole completion is `<think> .. </think> <answer> .. </answer>`, else 0 (R1-V's pattern)."""
    return [float(format_ok(completion)) for completion in completions]


def load_reward(name: str) -> Reward:
    """The function that `module:function` names.

    Raises:
        UserError: no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"reward_funcs: {name!r} cannot be loaded ({error}); write it as module:function") from error
    return found


def reward_name(name: str) -> str:
    """What a reward is called in the metrics: the function's name, `accuracy_reward` for the built-in one."""
    return name.rpartition(":")[2]


def call_reward(
    name: str, function: Reward, completions: list[str], solutions: list[str], columns: dict[str, list[Any]]
) -> list[float]:
    """The rewards of `completions`, checked; NaN where the function gave None.

    Raises:
        UserError: the function raised, or did not return one finite number or None for each completion.
    """
    try:
        rewards = function(completions, solutions, **columns)
    except Exception as error:
        where = _where_it_fails(function, completions, solutions, columns)
        raise UserError(f"reward {name}: {type(error).__name__}: {error}{where}") from error
    if hasattr(rewards, "tolist"):  # an array or a tensor
        rewards = rewards.tolist()
    if not isinstance(rewards, list | tuple) or len(rewards) != len(completions):
        size = len(rewards) if isinstance(rewards, list | tuple) else type(rewards).__name__
        raise UserError(
            f"reward {name}: it returned {size} for {len(completions)} completions; one number each is needed"
        )
    for index, reward in enumerate(rewards):
        if isinstance(reward, int):  # one without end has no float
            reward = min(max(reward, -int(_LARGEST)), int(_LARGEST))
        if reward is not None and not (isinstance(reward, Real) and abs(float(reward)) < _LARGEST):
            where = _sample(columns, index)
            raise UserError(f"reward {name}: {reward!r} for sample {where}; a finite number or None is needed")
    return [math.nan if reward is None else float(reward) for reward in rewards]


def _where_it_fails(
    function: Reward, completions: list[str], solutions: list[str], columns: dict[str, list[Any]]
) -> str:
    """The first sample that a reward function fails on by itself, in words; empty where it is none."""
    for index in range(len(completions)):
        try:
            function(
                completions[index : index + 1],
                solutions[index : index + 1],
                **{
                    key: value[index : index + 1] if isinstance(value, list) else value
                    for key, value in columns.items()
                },
            )
        except Exception:
            return f" (sample {_sample(columns, index)}, completion {completions[index][:80]!r})"
    return ""


def _sample(columns: dict[str, list[Any]], index: int) -> Any:
    return columns["sample_id"][index] if "sample_id" in columns else index
