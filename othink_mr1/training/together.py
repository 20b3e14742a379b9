"""What several processes of one training tell each other; each function is a plain one where there is one process."""

from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def several() -> bool:
    """Whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def every(value: T) -> list[T]:
    """Each process's value, in their order; it may be any Python object of these processes' own making."""
    if not several():
        return [value]
    found: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]


def first(value: T | None) -> T:
    """The value of the first process, for all; the others' is not looked at."""
    if not several():
        return value  # type: ignore[return-value]
    found = [value]
    dist.broadcast_object_list(found, src=0)
    return found[0]  # type: ignore[return-value]


def any_of(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether `flag` is set in any process."""
    if not several():
        return flag
    found = torch.tensor(int(flag), device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def barrier() -> None:
    """Wait until every process is here."""
    if several():
        dist.barrier()
