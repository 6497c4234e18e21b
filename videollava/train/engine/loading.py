"""Weights that are read once a host, straight into shards: no rank ever holds more than its part and one tensor.

In: a language model that is an outline, its weights `Unread` (a name in a file, and no memory). Out: once the model is
sharded, each weight is read by the first rank of a host, sent to the others there, and each keeps its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from videollava.errors import InputError
from videollava.model.formats.files import find_weights, read_header
from videollava.train.engine.ranks import Ranks
from videollava.train.launch.pulse import beat

__all__ = ["Unread", "fill", "leave_unread", "move_held", "put_nowhere"]

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Unread(nn.Parameter):
    """A weight that lies in the file `lies_in` under the name `lies_as`. It has shape and type, and no numbers yet.

    On the CPU and not on meta: what is put beside it (an adapter) is then real.
    """

    lies_in: Path
    lies_as: str

    @staticmethod
    def of(weight: nn.Parameter, file: Path, name: str) -> Unread:
        """In the place of `weight`, which may be on meta."""
        numberless = torch.zeros(1, dtype=weight.dtype).expand(weight.shape)
        made: Unread = numberless.as_subclass(Unread)
        made.requires_grad_(weight.requires_grad)
        made.lies_in, made.lies_as = file, name
        return made


def leave_unread(model: nn.Module, folder: Path) -> None:
    """Have every weight of an outline (its parameters on meta) be `Unread` in the safetensors files of `folder`."""
    found = {
        name: (file, spec) for file in find_weights(folder).files for name, spec in read_header(file).items()
    }
    made: dict[nn.Parameter, Unread] = {}
    for name, weight in list(model.named_parameters(remove_duplicate=False)):
        if weight not in made:
            file, (kind, shape) = found.get(name, (None, ("", ())))
            if (
                file is None
                or file.suffix != ".safetensors"
                or kind not in TYPES
                or shape != tuple(weight.shape)
            ):
                raise InputError(
                    f"{folder}: {name} of shape {tuple(weight.shape)} is in none of its safetensors files; run "
                    "`videollava bases` again"
                )
            made[weight] = Unread.of(weight, file, name)
        _put(model, name, made[weight])


def put_nowhere(model: nn.Module) -> dict[str, Unread]:
    """Move every unread weight to meta, to be made shards of there; where each lies, by its name in the model."""
    unread: dict[str, Unread] = {}
    made: dict[nn.Parameter, nn.Parameter] = {}
    for name, weight in list(model.named_parameters(remove_duplicate=False)):
        if isinstance(weight, Unread):
            if weight not in made:
                empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
                made[weight], unread[name] = nn.Parameter(empty, weight.requires_grad), weight
            _put(model, name, made[weight])
    return unread


def move_held(model: nn.Module, device: torch.device) -> None:
    """`model.to(device)`, without the unread weights."""
    for module in model.modules():
        for weight in module._parameters.values():
            if weight is not None and not isinstance(weight, Unread):
                weight.data = weight.data.to(device)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


def fill(model: nn.Module, unread: Mapping[str, Unread], ranks: Ranks) -> None:
    """Read the weights of a sharded model; every rank calls it. Their types may differ from the files'."""
    if not unread:
        return
    device, reader = ranks.device, ranks.first_here
    model._apply(
        lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.detach()
    )
    group = _neighbours(ranks)
    # One room for all that is received: freed pieces of many sizes would leave holes as large as a tensor.
    widest = 0 if reader == ranks.rank else max(_spec(lies)[2] for lies in unread.values())
    room = torch.empty(widest, dtype=torch.uint8, device=device)
    for name, weight in model.named_parameters():
        if name not in unread:
            continue
        beat()
        lies = unread[name]
        whole = _read(lies).to(device) if reader == ranks.rank else _laid_in(room, lies)
        distributed.broadcast(whole, reader, group)
        _keep_rows(weight, whole)
        del whole


def _read(lies: Unread) -> Tensor:
    """One tensor. The file is opened anew for each: what was mapped of it is let go of with the tensor."""
    from safetensors import safe_open

    with safe_open(lies.lies_in, framework="pt") as file:
        tensor: Tensor = file.get_tensor(lies.lies_as)
    return tensor


def _spec(lies: Unread) -> tuple[torch.dtype, tuple[int, ...], int]:
    """Type, shape and bytes of a tensor, by its file's header."""
    kind, shape = read_header(lies.lies_in)[lies.lies_as]
    return TYPES[kind], shape, TYPES[kind].itemsize * torch.Size(shape).numel()


def _laid_in(room: Tensor, lies: Unread) -> Tensor:
    dtype, shape, size = _spec(lies)
    return room[:size].view(dtype).view(shape)


@torch.no_grad()
def _keep_rows(weight: nn.Parameter, whole: Tensor) -> None:
    """This rank's rows of `whole` into its shard: as torch cuts them, the last ranks may have fewer or none."""
    assert isinstance(weight, DTensor)
    mine, mesh = weight.to_local(), weight.device_mesh
    each = -(-len(whole) // mesh.size(mesh.ndim - 1))
    start = mesh.get_local_rank(mesh.ndim - 1) * each
    mine.copy_(whole[start : start + len(mine)])


def _neighbours(ranks: Ranks) -> distributed.ProcessGroup | None:
    """The ranks of this host; all, where they are no equal number on each."""
    if ranks.one_host:
        return None
    group: distributed.ProcessGroup
    group, _ = distributed.new_subgroups(group_size=ranks.per_node)
    return group


def _put(model: nn.Module, name: str, weight: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, weight)
