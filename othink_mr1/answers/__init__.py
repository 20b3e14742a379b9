"""Whether a completion's answer is right, under two protocols.

`strict` reads the last `<answer>` block alone, as an exact number with a unit; what cannot be read is wrong. The
accuracy reward and the project's own figures use it.

`r1v` counts what the scripts of Deep-Agent/R1-V count, faults included, so that figures can be put beside the
paper's: for counting the first `<answer>` that holds only digits (src/eval/test_qwen2vl_counting_superclevr.py),
for geometry math_verify of the whole completion (src/eval/test_qwen2vl_geoqa.py).

Every function here is linear in the length of the completion and safe in threads.
"""

from othink_mr1.answers.protocols import (
    PROTOCOLS,
    TruthError,
    extract_answer,
    format_ok,
    is_correct,
    normalise,
    read,
    truth_of,
)

__all__ = [
    "PROTOCOLS",
    "TruthError",
    "extract_answer",
    "format_ok",
    "is_correct",
    "normalise",
    "read",
    "truth_of",
]
