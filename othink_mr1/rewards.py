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

import torch

from othink_mr1.answers import format_ok, is_correct
from othink_mr1.errors import UserError
from othink_mr1.names import COMPLETION_COLUMNS

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


def reward_name(function: str | Reward) -> str:
    """What a reward is called in the metrics: the function's name, `accuracy_reward` for the built-in one."""
    if isinstance(function, str):
        return function.rpartition(":")[2]
    return str(getattr(function, "__name__", type(function).__name__))


def reward_names(functions: Sequence[str | Reward]) -> list[str]:
    """The name of each reward; tables of completions have a column for each.

    Raises:
        UserError: two have the same name, or one has that of another column.
    """
    names = [reward_name(function) for function in functions]
    for place, name in enumerate(names):
        if name in COMPLETION_COLUMNS or name in names[:place]:
            what = "a column of the tables of completions" if name in COMPLETION_COLUMNS else "another reward function"
            raise UserError(f"reward_funcs: {name!r} is the name of {what}, too; give the function another name")
    return names


class Rewards:
    """Eq. 1: several reward functions and the weighted sum of what they give.

    Args:
        functions: the functions, or their names as `module:function`.
        weights: one for each.
        protocol: how answers are read; the functions are given it as `protocol`.

    Raises:
        UserError: a name that cannot be loaded, or another number of weights.
    """

    def __init__(self, functions: Sequence[str | Reward], weights: Sequence[float], protocol: str) -> None:
        if len(weights) != len(functions):
            raise UserError(f"reward_weights: {len(weights)} for {len(functions)} reward functions; one each is needed")
        self.functions = [load_reward(function) if isinstance(function, str) else function for function in functions]
        self.names = reward_names(functions)
        self.weights = torch.tensor(weights, dtype=torch.float32)
        self.protocol = protocol

    def __call__(self, completions: list[str], samples: Sequence[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards (N, functions), NaN where a function had nothing to say, and their weighted sum (N,).

        Args:
            completions: N texts.
            samples: what each of them answers, with `solution`; the other keys reach the functions as columns.

        Raises:
            UserError: what `call_reward` raises; or a completion has no number from any function.
        """
        # Two names are the call's own, and `protocol` is a setting.
        names = sorted({key for sample in samples for key in sample} - {"solution", "completions", "solutions"})
        columns: dict[str, Any] = {key: [sample.get(key) for sample in samples] for key in names}
        columns["protocol"] = self.protocol
        solutions = [sample["solution"] for sample in samples]
        named = zip(self.names, self.functions, strict=True)
        rewards = torch.tensor([call_reward(*one, completions, solutions, columns) for one in named]).T
        silent = rewards.isnan().all(1)
        if silent.any():
            where = _sample(columns, int(silent.nonzero()[0]))
            raise UserError(
                f"sample {where}: no reward function gave its completion a number ({', '.join(self.names)})"
            )
        return rewards, (rewards * self.weights).nansum(1)


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
    for key in ("sample_id", "index"):
        if key in columns and columns[key][index] is not None:
            return columns[key][index]
    return index
