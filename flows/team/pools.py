"""Which stages go out together: neighbouring ones of one work pool are one group, one run on one worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from videollava.machine import Pools

__all__ = ["Group", "group_stages"]


@dataclass(frozen=True)
class Group:
    """Stages, in order, that one run does. pool: "" where it is the coordinator's own process."""

    pool: str
    stages: tuple[str, ...]

    @property
    def title(self) -> str:
        """Short words for a page: "index", "fetch@a to index"."""
        first, last = self.stages[0], self.stages[-1]
        return first if first == last else f"{first} to {last}"


def group_stages(stages: Iterable[str], pools: Pools) -> Iterator[Group]:
    """The groups of stages that are given in the order in which they are to run."""
    for pool, some in groupby(stages, pools.of):
        yield Group(pool, tuple(some))
