"""Where ranks wait for one that has long work of its own (a checkpoint, features, the result), and tell each other
small things.

Exchanges in a step are bound by machine.yaml's stall_minutes, since nothing long is between them. Here it is the
launcher's watch that tells work from a hang, so the time-out is long. Over gloo, on a GPU too: no tensor goes along.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

from videollava.train.launch.pulse import OTHERS, during

__all__ = ["Together", "meet", "open_meeting"]

LONGEST = timedelta(days=7)
Told = TypeVar("Told")

_groups: dict[tuple[Any, str], Any] = {}  # by the process group they belong to, and what they're for


class Together:
    """All ranks, exchanging small things over a group of their own; with one rank nothing leaves it.

    Made by all ranks at the same point. A thread that isn't the training one has a group `name` of its own, so that its
    exchanges don't mix with others.
    """

    def __init__(self, name: str = "") -> None:
        from torch import distributed

        there = distributed.is_initialized()
        self.rank = distributed.get_rank() if there else 0
        self.ranks = distributed.get_world_size() if there else 1
        self.first = self.rank == 0
        self._group = _group_of(name) if self.ranks > 1 else None

    def gather(self, told: Told) -> list[Told]:
        """What each rank tells, on every rank."""
        from torch import distributed

        if self.ranks == 1:
            return [told]
        heard: list[Any] = [None] * self.ranks
        distributed.all_gather_object(heard, told, group=self._group)
        return heard

    def collect(self, told: Told) -> list[Told]:
        """What each rank tells, on rank 0; nothing on the others."""
        from torch import distributed

        if self.ranks == 1:
            return [told]
        heard: list[Any] = [None] * self.ranks if self.first else []
        distributed.gather_object(told, heard if self.first else None, group=self._group)
        return heard

    def hand_out(self, things: Sequence[Any] | None) -> Any:
        """Of rank 0's things this rank's."""
        from torch import distributed

        if self.ranks == 1:
            assert things is not None
            return things[0]
        got: list[Any] = [None]
        distributed.scatter_object_list(got, list(things) if things is not None else None, group=self._group)
        return got[0]

    def hear(self, told: Told) -> Told:
        """What rank 0 tells."""
        from torch import distributed

        if self.ranks == 1:
            return told
        box = [told]
        distributed.broadcast_object_list(box, group=self._group)
        return box[0]


def open_meeting() -> None:
    """Once the process group is there, by all ranks at the same point."""
    Together()


def meet() -> None:
    """Until all ranks are here. Nothing with one rank."""
    from torch import distributed

    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    with during(OTHERS):
        distributed.barrier(group=_groups.get((distributed.group.WORLD, "")))


def _group_of(name: str) -> Any:
    """The gloo group of that name, made where there is none of this process group."""
    from torch import distributed

    whole = distributed.group.WORLD
    for key in [key for key in _groups if key[0] is not whole]:
        del _groups[key]
    if (whole, name) not in _groups:
        _groups[whole, name] = distributed.new_group(backend="gloo", timeout=LONGEST)
    return _groups[whole, name]
