"""The answer as R1-V's data hold it: `<answer> 3 </answer>`."""

import re

_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def solution_of(answer: str) -> str:
    """`<answer> 3 </answer>` for `3`."""
    return f"<answer> {answer} </answer>"


def answer_of(solution: str) -> str:
    """The answer inside the tags of a solution; the whole text, stripped, where there are none."""
    found = _ANSWER_TAG.search(solution)
    return (found.group(1) if found else solution).strip()
