"""Where ranks wait for one that has long work of its own (a checkpoint, features, the result).

Exchanges in a step are bound by machine.yaml's stall_minutes, since nothing long is between them. Here it is the
launcher's watch that tells work from a hang, so the time-out is long. Over gloo, on a GPU too: no tensor goes along.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from videollava.train.launch.pulse import OTHERS, during

__all__ = ["meet", "open_meeting"]

LONGEST = timedelta(days=7)

_groups: dict[Any, Any] = {}  # by the process group they belong to


def open_meeting() -> None:
    """Once the process group is there, by all ranks at the same point."""
    from torch import distributed

    if distributed.is_initialized() and distributed.get_world_size() > 1:
        whole = distributed.group.WORLD
        if whole not in _groups:
            _groups.clear()
            _groups[whole] = distributed.new_group(backend="gloo", timeout=LONGEST)


def meet() -> None:
    """Until all ranks are here. Nothing with one rank."""
    from torch import distributed

    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    with during(OTHERS):
        distributed.barrier(group=_groups.get(distributed.group.WORLD))
