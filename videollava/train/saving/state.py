"""What is kept of training, by the parameters' names: what was learned, and what the optimiser knows of it.

Names and not numbers or positions, so that other ranks, another sharding and a plain model read the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from videollava.errors import InputError
from videollava.train.engine.sharding import lay_down

__all__ = ["MODEL", "collect", "learned", "make_room", "state_bytes"]

MODEL = "model/"  # before a weight's name
OPTIMIZER = "optimizer/"  # before a weight's name, a stroke, and what the optimiser calls it


def learned(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that learn, by name; this rank's shards where there are such."""
    lay_down(model)
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def collect(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """The state as it is now, no copies: plain tensors, or this rank's DTensors."""
    state: dict[str, Tensor] = {}
    for name, weight in learned(model).items():
        state[MODEL + name] = weight.detach()
        known = optimizer.state.get(weight, {})
        state.update({f"{OPTIMIZER}{name}/{key}": value.detach() for key, value in known.items()})
    return state


def make_room(
    model: nn.Module, optimizer: Any, kept: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], where: str
) -> dict[str, Tensor]:
    """The state that is to be read into, laid out as `kept` (types and shapes by name) has it; the optimiser's is made.

    InputError where other weights learn than in the checkpoint `where`.
    """
    weights = learned(model)
    check_same_weights({name: tuple(weight.shape) for name, weight in weights.items()}, kept, where)
    state: dict[str, Tensor] = {MODEL + name: weight.detach() for name, weight in weights.items()}
    for full, (dtype, shape) in kept.items():
        if not full.startswith(OPTIMIZER):
            continue
        name, _, key = full.removeprefix(OPTIMIZER).rpartition("/")
        weight = weights[name]
        alike = tuple(weight.shape) == shape
        made = (
            torch.zeros_like(weight.detach(), dtype=dtype)
            if alike and shape
            else torch.zeros(shape, dtype=dtype, device=_place_of(optimizer, weight))
        )
        optimizer.state[weight][key] = state[full] = made
    return state


def check_same_weights(
    here: Mapping[str, tuple[int, ...]],
    kept: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    where: str,
) -> None:
    """InputError where the weights that learn here (shapes by name) aren't those of the checkpoint `where`."""
    there = {name.removeprefix(MODEL): shape for name, (_, shape) in kept.items() if name.startswith(MODEL)}
    for text, names in (
        ("holds weights that don't learn here", there.keys() - here.keys()),
        ("lacks weights that learn here", here.keys() - there.keys()),
        ("holds other shapes of", {name for name in here.keys() & there.keys() if here[name] != there[name]}),
    ):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise InputError(
                f"{where}: {text}: {shown}; it belongs to another model or adapter: go on with the one it was made "
                "with, or remove it to start this stage anew"
            )


def _place_of(optimizer: Any, weight: Tensor) -> torch.device:
    """Where torch's optimisers hold a weight's count of steps."""
    fused = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    return weight.device if fused else torch.device("cpu")


def state_bytes(model: nn.Module) -> int:
    """What a checkpoint will take, of all ranks: weights that learn, and AdamW's two moments of each."""
    return 3 * sum(weight.numel() * weight.element_size() for weight in learned(model).values())
