"""What this machine gives to a process."""

import contextlib
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_VMSTAT = Path("/proc/vmstat")


def cores(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """CPU cores that this process may use, at least 1: affinity, and the quota of a container or a service.

    Args:
        cgroups: where the control groups are mounted.
        own: the file that says in which of them this process is.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas(cgroups, own))]))


def memory(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int | None:
    """Bytes of memory that this process may use: the machine's, or the limit of a container or a service.

    Args:
        cgroups: where the control groups are mounted.
        own: the file that says in which of them this process is.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no such name outside Linux and macOS
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limits = [folder / "memory.max" for folder in _folders(cgroups, own)]  # "max" is no limit
    limits += [folder / "memory.limit_in_bytes" for folder in _folders(cgroups / "memory", own, "memory")]
    for file in limits:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(file.read_text()))
    return min(found, default=None)


def oom_kills(cgroups: Path = _CGROUPS, own: Path = _OWN, vmstat: Path = _VMSTAT) -> int | None:
    """How many processes the kernel has killed for want of memory, in this process's control group or, where that is
    not counted, on the whole machine; None where nobody counts. A number that has grown tells of a killed process.

    Args:
        cgroups: where the control groups are mounted.
        own: the file that says in which of them this process is.
        vmstat: the machine's own count.
    """
    group = _folders(cgroups, own)[0] / "memory.events"  # version 2, and version 1
    older = _folders(cgroups / "memory", own, "memory")[0] / "memory.oom_control"
    for file in (group, older, vmstat):
        with contextlib.suppress(OSError, ValueError):
            for line in file.read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number)
    return None


def _quotas(cgroups: Path, own: Path) -> list[float]:
    """The limits in cores of this process's control group and of those around it; none outside Linux."""
    found = []
    for folder in _folders(cgroups, own):
        try:
            quota, period = (folder / "cpu.max").read_text().split()  # version 2: "max 100000" is no limit
        except (OSError, ValueError):
            try:  # version 1: -1 is no limit
                quota = (folder / "cpu" / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu" / "cpu.cfs_period_us").read_text()
            except OSError:
                continue
        try:
            if int(quota) > 0 and int(period) > 0:
                found.append(int(quota) / int(period))
        except ValueError:
            continue
    return found


def _folders(cgroups: Path, own: Path, controller: str = "") -> list[Path]:
    """The folder of this process's group and those above it. Inside a container it is mostly the mount itself.

    Args:
        controller: of version 1, which has a tree for each; none: the one tree of version 2.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        lines = []
    paths = [line[2].strip("/") for line in lines if len(line) == 3 and controller in line[1].split(",")]
    group = Path(paths[0] if paths else "")
    if ".." in group.parts or not (cgroups / group).is_dir():  # outside of what is mounted here
        return [cgroups]
    return [cgroups / folder for folder in (group, *group.parents)]
