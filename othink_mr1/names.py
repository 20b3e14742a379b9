"""The names that params.yaml, stages, folders and the registry share."""

from typing import Literal, get_args

Task = Literal["counting", "geometry"]

TASKS: tuple[Task, ...] = get_args(Task)
METHODS = ("sft", "grpo", "grpo_d")
# Kinds of steps: the name of a DVC stage before the "@". (`resolve` comes before all settings.)
STEP_KINDS = ("prepare_data", "base_model", "train", "evaluate", "tables")
# Every model that is evaluated, as its folders are named.
MODELS = ("base", *(f"{method}-{task}" for method in METHODS for task in TASKS))
# Of the tables of completions, beside one for each reward.
COMPLETION_COLUMNS = (
    "step", "sample_id", "index", "task", "prompt", "solution", "completion", "reward", "advantage",
)  # fmt: skip
