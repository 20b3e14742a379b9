"""The names that params.yaml, stages, folders and the registry share."""

from typing import Literal, get_args

Task = Literal["counting", "geometry"]
Method = Literal["sft", "grpo", "grpo_d"]
# Kinds of steps: the name of a DVC stage before the "@". (`resolve` comes before all settings.)
StepKind = Literal["prepare_data", "base_model", "train", "evaluate", "tables"]

TASKS: tuple[Task, ...] = get_args(Task)
METHODS: tuple[Method, ...] = get_args(Method)
STEP_KINDS: tuple[StepKind, ...] = get_args(StepKind)
# Every model that is evaluated, as its folders are named.
MODELS = ("base", *(f"{method}-{task}" for method in METHODS for task in TASKS))
