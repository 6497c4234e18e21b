"""The interface of an engine: what the loop asks of whatever computes a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from videollava.machine import Strategy
from videollava.train.engine.ranks import Ranks

__all__ = ["Engine", "Learning"]

T = TypeVar("T")


@dataclass(frozen=True)
class Learning:
    """What learns, and how: groups (parameter groups with their `lr`, mended in place where weights become shards),
    AdamW's weight decay and betas, and modules that every rank holds whole (frozen encoders).
    """

    groups: list[dict[str, Any]]
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    whole: Sequence[nn.Module] = ()


class Engine(ABC):
    """Computes steps on some ranks. One engine trains one model.

    A rank's gradients are averaged over ranks: a loss that is a share of all ranks' has to be multiplied by their
    number. Weights that learn are float32 (DeepSpeed keeps such copies), bf16 says what is computed in.
    called: what `prepare` gave in the model's place.
    """

    called: nn.Module

    def __init__(self, strategy: Strategy, bf16: bool, ranks: Ranks) -> None:
        self.strategy, self.bf16, self.among = strategy, bf16, ranks
        self.rank, self.ranks, self.device, self.first = ranks.rank, ranks.ranks, ranks.device, ranks.first

    @property
    def reads_shards(self) -> bool:
        """Whether `prepare` reads weights that the model was not given (`loading.Unread`)."""
        return False

    @abstractmethod
    def prepare(self, model: nn.Module, learning: Learning) -> tuple[nn.Module, torch.optim.Optimizer]:
        """What is called in the place of `model`, and its optimizer. The weights of `model` become shards in place
        where the strategy shards.
        """

    @abstractmethod
    def micro_step(self, last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of one of a step's packs; the last is where ranks exchange at the
        latest.
        """

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""

    @abstractmethod
    def step(self, clip: float) -> Tensor | float | None:
        """Cut the gradients' norm at `clip` (0: not), step, forget them. The norm before it was cut; None where the
        engine does not tell.
        """

    @abstractmethod
    def forget(self) -> None:
        """Drop gradients without a step."""

    @abstractmethod
    def make_whole(self, model: nn.Module, learned_only: bool) -> None:
        """Training is over: gather the weights of `model` on rank 0, as an ordinary model in host memory.

        Every rank calls it, weight by weight: no device holds more than one at a time. On other ranks nothing changes.
        """

    @abstractmethod
    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """All weights and buffers of a small model that was trained, whole and in host memory, on every rank."""

    def autocast(self) -> AbstractContextManager[Any]:
        """What a forward pass outside of training computes in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of this tensor over all ranks."""
        return self.among.sum(tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """This tensor (B, ...) from all ranks (ranks * B, ...), in their order; as many rows on each."""
        return self.among.gather(tensor)

    def agree(self, value: T) -> T:
        """Rank 0's value (anything that pickles), on every rank."""
        return self.among.agree(value)

    def say(self, text: str) -> None:
        """Print a line, once for all ranks."""
        if self.first:
            print(text, flush=True)
