"""How weights lie on the ranks: a mesh for the strategy, and which modules are gathered together.

In: a model on a device or nowhere yet (meta). Out: the same model, its parameters DTensors. Decoder layers are gathered
one by one, as each is computed; the rest is one group. What `whole` names, what is quantised and single numbers stay
whole on every rank.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from videollava.errors import InputError
from videollava.machine import Strategy
from videollava.train.engine.ranks import Ranks

__all__ = ["is_shard", "lay_down", "lay_mesh", "shard"]


def is_shard(tensor: Tensor) -> bool:
    """Whether this rank may hold a part of it only."""
    return isinstance(tensor, DTensor)


def lay_mesh(strategy: Strategy, ranks: Ranks) -> DeviceMesh:
    """Ranks in a row (sharded), or in rows that each hold everything: of a host (sharded-node), of one rank."""
    if strategy == "sharded":
        return init_device_mesh(ranks.device.type, (ranks.ranks,), mesh_dim_names=("shard",))
    width = ranks.per_node if strategy == "sharded-node" else 1
    if ranks.ranks % width:
        raise InputError(
            f"machine.yaml: strategy sharded-node needs as many ranks on every host, and {ranks.ranks} are no "
            f"multiple of this host's {width}: set strategy: sharded"
        )
    shape = (ranks.ranks // width, width)
    return init_device_mesh(ranks.device.type, shape, mesh_dim_names=("replicate", "shard"))


def shard(model: nn.Module, mesh: DeviceMesh, bf16: bool, whole: Sequence[nn.Module] = ()) -> None:
    """Make the parameters of `model` shards, in place. bf16: what the model computes in, by autocast."""
    # The model's logits are a view, which nobody writes to.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    kept = {weight for module in whole for weight in module.parameters()}
    kept |= {weight for weight in model.parameters() if not weight.ndim or not weight.is_floating_point()}
    # Autocast says what is computed in what; a layer's inputs are left as they are.
    plain = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    thrifty = plain
    if bf16 and mesh["shard"].size() > 1:
        # Half the bytes, and the products' numbers: autocast would round these weights all the same.
        thrifty = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for unit in _units(model):
        if any(weight not in kept for weight in unit.parameters()):
            fully_shard(unit, mesh=mesh, mp_policy=thrifty, ignored_params=kept)
    fully_shard(model, mesh=mesh, mp_policy=plain, ignored_params=kept)


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """Layers, and a head that is no table of embeddings as well."""
    for layers in model.modules():
        if isinstance(layers, nn.ModuleList):
            yield from layers
    head, table = (_ask(model, f"get_{name}_embeddings") for name in ("output", "input"))
    if head is not None and (table is None or head.weight is not table.weight):
        yield head


def _ask(model: Any, name: str) -> Any:
    try:
        return getattr(model, name, lambda: None)()
    except NotImplementedError:  # transformers' own, of a model that has no such thing
        return None


def lay_down(model: nn.Module) -> None:
    """Have shards lie where weights do: after a pass without a backward one the outermost lie there whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
