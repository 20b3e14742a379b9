"""A process that the kernel ends for want of memory says nothing: the kernel's count of such ends does."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.execute import _failure
from othink_mr1 import machine, stages

OOM_CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
EVENTS = "low 0\nhigh 0\nmax 12\noom 7\noom_kill 5\noom_group_kill 0\n"


def counted(folder: Path, own: str, files: dict[str, str]) -> int | None:
    """What is counted for a process in these control groups."""
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder.mkdir(exist_ok=True)
    (folder / "own").write_text(own)
    return machine.oom_kills(folder / "cgroup", folder / "own", folder.parent / "vmstat")


def test_the_count_is_that_of_the_own_group_or_else_of_the_machine(tmp_path: Path) -> None:
    groups = {"a/memory.events": EVENTS.replace("5", "9"), "a/b/memory.events": EVENTS}
    assert counted(tmp_path / "version 2", "0::/a/b\n", groups) == 5
    older = {"memory/memory.oom_control": OOM_CONTROL.replace("3", "9"), "memory/a/memory.oom_control": OOM_CONTROL}
    assert counted(tmp_path / "version 1", "4:memory:/a\n0::/\n", older) == 3
    # A container sees its own group at the mount.
    inside = {"memory/memory.oom_control": OOM_CONTROL}
    assert counted(tmp_path / "container", "4:cpu,memory:/docker/1234\n0::/\n", inside) == 3
    assert counted(tmp_path / "nobody counts", "0::/\n", {}) is None
    (tmp_path / "vmstat").write_text("pgfault 9\noom_kill 2\n")
    assert counted(tmp_path / "the machine", "0::/\n", {}) == 2


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        ({"state": "interrupted"}, 255, "train@x: the step was killed, it seems by the kernel"),
        ({"state": "interrupted", "message": "interrupted by SIGTERM"}, 255, "train@x: interrupted by SIGTERM"),
        ({}, -9, "train@x: DVC was ended by SIGKILL, it seems by the kernel"),
        ({}, -15, "train@x: DVC was ended by SIGTERM"),
    ],
)
def test_a_killed_step_is_told_of_with_what_would_save_memory(status: dict, code: int, told: str) -> None:
    status = {**status, "savings": ["num_generations=4 saves about 2.0 GB"]} if status else {}
    plain = str(_failure("train@x", Path("log"), status, code, out_of_memory=False))
    starved = str(_failure("train@x", Path("log"), status, code, out_of_memory=True))
    assert starved.startswith(told)
    assert ("kernel" in starved) is (starved != plain)
    if starved.startswith("train@x: the step was killed"):
        assert starved.endswith(f"{stages.OUT_OF_MEMORY}; num_generations=4 saves about 2.0 GB")
    assert "kernel" not in plain


@contextlib.contextmanager
def small_group() -> Iterator[Path]:
    """A control group below this process's own whose memory is soon out."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {line[1]: line[2].strip("/") for line in lines}
    older = "memory" in paths
    own = Path("/sys/fs/cgroup") / ("memory" if older else "") / paths["memory" if older else ""]
    group = own / f"othink-test-{os.getpid()}"
    try:
        group.mkdir()
        limits = (
            ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] if older else ["memory.max", "memory.swap.max"]
        )
        for name in limits:
            if (group / name).exists():
                (group / name).write_text("0" if name == "memory.swap.max" else str(100_000_000))
        if not (group / limits[0]).exists():
            pytest.skip("this machine does not let groups of its own have limits")
    except OSError:
        pytest.skip("this machine does not allow control groups")
    try:
        yield group
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts")
def test_the_kernel_counts_what_it_ends() -> None:
    code = (
        "import os, subprocess, sys\n"
        "open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "from othink_mr1 import machine\n"
        "before = machine.oom_kills()\n"
        "hungry = subprocess.run([sys.executable, '-c', 'b = bytearray(10**9); b[::4096] = bytes(len(b[::4096]))'])\n"
        "print(hungry.returncode, machine.oom_kills() - before)\n"
    )
    with small_group() as group:
        command = [sys.executable, "-c", code, str(group)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "-9 1\n"
