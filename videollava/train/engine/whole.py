"""Whole weights in the place of shards: how a model that was trained in parts becomes an ordinary one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from torch import Tensor, nn

__all__ = ["gather_weights"]

Whole = Callable[[nn.Parameter], AbstractContextManager[Tensor]]


def gather_weights(model: nn.Module, chosen: Iterable[nn.Parameter], whole: Whole, first: bool) -> None:
    """Put each of the `chosen` weights, as `whole` gathers it, into host memory and in its place in `model`.

    Every rank calls it, weight by weight: no device holds more than one at a time. Only on the first rank anything
    changes. What was one weight under two names stays one.
    """
    gathered: dict[nn.Parameter, nn.Parameter] = {}
    for weight in chosen:
        with whole(weight) as tensor:
            if first:
                gathered[weight] = nn.Parameter(tensor.detach().to("cpu", copy=True), requires_grad=False)
    for name, weight in list(model.named_parameters(remove_duplicate=False)):
        if weight in gathered:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, gathered[weight])
