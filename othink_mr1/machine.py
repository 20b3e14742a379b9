"""What this machine gives to a process."""

import contextlib
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


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
    for folder in _folders(cgroups, own):
        for name in ("memory.max", "memory/memory.limit_in_bytes"):  # versions 2 and 1; "max" is no limit
            with contextlib.suppress(OSError, ValueError):
                found.append(int((folder / name).read_text()))
    return min(found, default=None)


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


def _folders(cgroups: Path, own: Path) -> list[Path]:
    """The folder of this process's group and those above it. Inside a container it is mostly the mount itself."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    group = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    if ".." in Path(group).parts:  # outside of what is mounted here
        return [cgroups]
    return [cgroups / folder for folder in (Path(group), *Path(group).parents)]
