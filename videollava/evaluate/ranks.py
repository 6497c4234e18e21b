"""Which of several processes this is, as torchrun says it: they share a benchmark's questions and meet again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from videollava.train.launch.pulse import OTHERS, during

__all__ = ["Ranks", "join_ranks"]

LONGEST = timedelta(days=7)  # that one rank waits for another; the launcher tells work from a hang


@dataclass(frozen=True)
class Ranks:
    """This process's `rank` of `size`, and its place on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """From RANK, WORLD_SIZE and LOCAL_RANK; one process without them."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        rank, size, local = (
            int(environment.get(name, default)) for name, default in zip(names, "010", strict=True)
        )
        return cls(rank, size, local)

    @property
    def device(self) -> str:
        """The torch device of this rank."""
        import torch

        return f"cuda:{self.local}" if torch.cuda.is_available() else "cpu"

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            import torch.distributed as dist

            with during(OTHERS):
                dist.barrier()


@contextmanager
def join_ranks(ranks: Ranks) -> Iterator[Ranks]:
    """With the ranks able to wait for each other. Nothing else goes between them, so gloo serves on a GPU too."""
    if ranks.size == 1:
        yield ranks
        return
    import torch.distributed as dist

    own = not dist.is_initialized()
    if own:
        dist.init_process_group("gloo", rank=ranks.rank, world_size=ranks.size, timeout=LONGEST)
    try:
        yield ranks
    finally:
        if own:
            dist.destroy_process_group()
