"""Starts one training in several processes, and speaks for them: what is asked of it, and how it ended.

`torchrun` starts them on the CPU, where accelerate would start one without a word; `accelerate launch` on GPUs. The
first process holds the stage's lock and writes its status.
"""

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from othink_mr1.errors import UserError
from othink_mr1.processes import Process
from othink_mr1.training import deepspeed_config

# torchrun's account of a process that failed.
_FAILED = re.compile(r"^\s*rank\s+: (\d+) .*\n\s*exitcode\s+: (-?\d+)", re.MULTILINE)
# What tells several machines of each other, as torch's own launchers have it, and what holds where it is not there.
_ENVIRONMENT = {"NODE_RANK": "", "MASTER_ADDR": "", "MASTER_PORT": "29500"}
_KEPT = 400  # lines of stderr, in which that account is looked for


def is_launched() -> bool:
    """Whether this process is one of those that a launcher has started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def command(launch: Mapping[str, Any], gpu: bool, module: str, arguments: Sequence[str]) -> list[str]:
    """What starts `launch["processes"]` processes on this machine.

    On several machines the first one's address stands in MASTER_ADDR (and MASTER_PORT, 29500 if not set), and which
    one this is, from 0, in NODE_RANK, as torch's own launchers have them.

    Raises:
        UserError: several machines are asked for, and the environment does not say which one this is; or DeepSpeed is,
            and it is not installed.
    """
    processes, machines = launch["processes"], launch["machines"]
    if launch["strategy"] == "deepspeed":
        deepspeed_config.require()
    # Of one machine the launcher finds a free port by itself.
    rank, address, port = _meeting(machines) if machines > 1 else ("0", "127.0.0.1", "0")
    if not gpu:
        where = (
            ["--standalone"]
            if machines == 1
            else ["--nnodes", str(machines), "--node-rank", rank, "--master-addr", address, "--master-port", port]
        )
        start = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *where]
    else:
        # Mixed precision and the sharing of weights are the trainer's: here all processes are alike.
        start = ["-m", "accelerate.commands.launch", "--num_processes", str(processes * machines), "--mixed_precision"]
        start += ["no", "--num_machines", str(machines), "--dynamo_backend", "no", "--machine_rank", rank]
        start += ["--main_process_ip", address, "--main_process_port", port]
        start += ["--multi_gpu"]
    return [sys.executable, *start, "-m", module, *arguments]


def _meeting(machines: int) -> tuple[str, str, str]:
    """This machine's number, and the address and port where all machines meet, from the environment."""
    rank, address, port = (os.environ.get(n, d) for n, d in _ENVIRONMENT.items())
    if not address or rank not in map(str, range(machines)):
        raise UserError(
            f"training.launch.machines is {machines}: MASTER_ADDR (the first machine's address) and NODE_RANK (which "
            f"one this is, from 0 to {machines - 1}) are needed in the environment; found: {address!r} and {rank!r}"
        )
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"MASTER_PORT is {port!r}; it should be a port of {address} that all machines reach")
    return rank, address, port


def run(
    arguments: Sequence[str], environment: Mapping[str, str], first: Callable[[], Process | None]
) -> tuple[str | None, int | None]:
    """Run a launcher until its processes have ended, passing on SIGTERM and SIGINT.

    Args:
        arguments: what `command` says.
        first: the first of its processes, once it holds its stage: a signal goes to that one alone, which stops all
            others with it, after a checkpoint.

    Returns:
        None where all went well, else what happened; and the signal that was passed on, or None.
    """
    # In a session of its own: a terminal's Ctrl-C would reach every process at once.
    launcher = subprocess.Popen(
        arguments,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, **environment},
    )
    passed: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        passed.append(number)
        process = first()
        if process is not None:
            process.signal(number)
        else:
            launcher.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    last: deque[str] = deque(maxlen=_KEPT)
    try:
        assert launcher.stderr is not None
        for line in launcher.stderr:
            sys.stderr.write(line)
            last.append(line)
        code = launcher.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if launcher.poll() is None:
            launcher.terminate()
    return None if code == 0 else failure("".join(last), code), passed[0] if passed else None


def failure(text: str, code: int) -> str:
    """What a launcher's last words say of the process that ended first of itself."""
    found = [(int(rank), int(exit_code)) for rank, exit_code in _FAILED.findall(text)]
    # Who was killed is the cause; the others fail because it is gone, or are ended by SIGTERM.
    killed = [(rank, -exit_code) for rank, exit_code in found if exit_code < 0 and exit_code != -signal.SIGTERM]
    if killed:
        rank, number = killed[0]
        return (
            f"process {rank} of the training was ended by {signal.Signals(number).name}, and the others with it; the "
            "last whole checkpoint is kept: run again"
        )
    who = f"process {found[0][0]} of the training" if found else "the training's launcher"
    return f"{who} failed with exit code {found[0][1] if found else code}; its message stands above"
