"""A model whose weights, gradients and optimiser state are spread over the processes (FSDP2).

torch's `fully_shard` is applied directly, per language layer and vision block and then to the whole. A weight is whole
only inside the model's own forward pass, so everything that uses one has to run there: `shared_prefix.install`.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from othink_mr1.models.lora import bare

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def shard(model: torch.nn.Module, device: torch.device) -> None:
    """Spread the weights of `model` over all processes, in place."""
    net = bare(model)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in [*net.model.visual.blocks, *net.model.language_model.layers]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether `shard` was here, or was at the model around this one."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def whole_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The whole state dict for the first process, and an empty one for the others; all have to ask. A tied weight is
    there once."""
    found = get_model_state_dict(model, options=_WHOLE)
    once = dict(model.named_parameters())
    again = {name for name, _ in model.named_parameters(remove_duplicate=False) if name not in once}
    return {name: value for name, value in found.items() if name not in again}  # type: ignore[misc]


def take_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """The inverse of `whole_weights`; what `weights` does not name stays as it is."""
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
    set_model_state_dict(model, dict(weights), options=options)


def save_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer, file: Path) -> None:
    """The whole state of a sharded model's optimiser; the first process writes it."""
    state = get_optimizer_state_dict(model, optimizer, options=_WHOLE)
    if dist.get_rank() == 0:
        torch.save(state, file)


def load_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer, file: Path) -> None:
    """The inverse of `save_optimizer`."""
    state: dict[str, Any] = {}
    if dist.get_rank() == 0:
        state = torch.load(file, map_location="cpu", weights_only=True)
    set_optimizer_state_dict(model, optimizer, state, options=_FROM_FIRST)
