"""The ranks of a run: which one this process is, on what device, and what they tell each other.

The launcher's environment (torchrun's names) says which rank a process is; one rank needs none, and no process group.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

__all__ = ["Ranks", "end_ranks", "join_ranks"]

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks: its number, how many there are, and how many of them are on this host."""

    rank: int = 0
    ranks: int = 1
    per_node: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which tells and writes for all."""
        return self.rank == 0

    @property
    def one_host(self) -> bool:
        """Whether all are on this host, or their hosts have not as many each: then they count as one."""
        return self.per_node >= self.ranks or self.ranks % self.per_node != 0

    @property
    def first_here(self) -> int:
        """The rank that reads for those of its host."""
        return 0 if self.one_host else self.rank - self.rank % self.per_node

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of this tensor over all ranks."""
        if self.ranks == 1:
            return tensor
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    def gather(self, tensor: Tensor) -> Tensor:
        """This tensor (B, ...) from all ranks (ranks * B, ...), in their order; as many rows on each."""
        if self.ranks == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.ranks)]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def agree(self, value: T) -> T:
        """Rank 0's value (anything that pickles), on every rank."""
        if self.ranks == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told)
        return told[0]


def join_ranks(patience: timedelta) -> Ranks:
    """This process's place. Where there are several ranks their process group is made, once a process.

    patience: of one exchange.
    """
    rank, ranks, here, per_node = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 0))
    )
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", here)
        torch.cuda.set_device(device)
    else:
        # transformers imports DeepSpeed where it is installed, which would search for a device, and warn.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if ranks > 1 and not distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=patience)
    return Ranks(rank, ranks, per_node or ranks, device)


def end_ranks() -> None:
    """Leave the process group, where there is one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
