"""The prompts of R1-V (Deep-Agent/R1-V), which the paper follows.

The user turn is the picture, then this text; there is no system message of our own.
"""

from othink_mr1.errors import UserError

# grpo.py, QUESTION_TEMPLATE: two spaces after the question.
_TRAIN = (
    "{question}  Output the thinking process in <think> </think> and final answer (number) in <answer> </answer> tags."
)
_TEST = {
    # test_qwen2vl_counting_superclevr.py
    "counting": (
        "{question} First output the thinking process in <think> </think> "
        "and final answer (number) in <answer> </answer> tags."
    ),
    # test_qwen2vl_geoqa.py: the train prompt with one space.
    "geometry": (
        "{question} Output the thinking process in <think> </think> "
        "and final answer (number) in <answer> </answer> tags."
    ),
}
_DIRECT = "{question} Answer with the number only."


def train_prompt(question: str) -> str:
    """The text of the user turn during SFT and GRPO."""
    return _TRAIN.replace("{question}", question)


def test_prompt(task: str, question: str) -> str:
    """The text of the user turn when `task` is evaluated.

    Raises:
        UserError: `task` has no test prompt.
    """
    if task not in _TEST:
        raise UserError(f"task: {task!r} has no test prompt; known tasks are {', '.join(sorted(_TEST))}")
    return _TEST[task].replace("{question}", question)


def direct_prompt(question: str) -> str:
    """A question without a request to think: the untrained model often scores higher so (R1-V#72, #113)."""
    return _DIRECT.replace("{question}", question)


test_prompt.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it by its name
