"""math_verify in a process of its own: one JSON line in, one JSON line out.

math_verify parses through sympy's eval and can hang or eat memory on hostile text, so it never runs inside the
program. `r1v` starts this file as a script and kills it past a deadline. The CPU timer and the memory limit
hold even if nobody is left to kill it.
"""

import json
import resource
import signal
import sys

MEMORY_BYTES = 4 * 2**30


def judge(completion: str, truth: str) -> bool:
    """What R1-V's test_qwen2vl_geoqa.py counts: the answer is math_verify's first argument, an exception is wrong."""
    from math_verify import parse, verify

    try:
        answer = parse(completion)
        return answer is not None and float(verify(answer, parse(truth))) > 0
    except Exception:  # R1-V catches everything too; a kill is the parent's business
        return False


def main() -> None:
    import math_verify  # noqa: F401  # paid before the first deadline starts

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["deadline"])  # the kernel ends us, even inside C code
        correct = judge(request["completion"], request["truth"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps({"correct": correct}), flush=True)


if __name__ == "__main__":
    main()
