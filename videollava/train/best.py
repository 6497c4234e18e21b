"""The weights at the lowest held-out loss so far, kept for a stage that ends with them (`take: best`).

A second copy of what learns, in the parts that this rank holds, beside the first; checkpoints carry it, so that a
resumed run ends with the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from videollava.train.saving.state import learned

__all__ = ["Best"]

BEST = "best/"  # before a weight's name, in a checkpoint


class Best:
    """Of one run of `model`. step: after which it was, 0 where none was measured yet."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.step, self.loss = 0, math.inf
        self._weights: dict[str, Tensor] = {}

    def see(self, step: int, loss: float) -> None:
        """Keep what has been learned after `step` steps, where its held-out `loss` is lower than any before."""
        if loss >= self.loss:
            return
        self.step, self.loss = step, loss
        for name, weight in learned(self._model).items():
            if name in self._weights:
                self._weights[name].copy_(weight.detach())
            else:
                self._weights[name] = weight.detach().clone()

    @torch.no_grad()
    def put_back(self) -> None:
        """Let the model have them again; the copy goes."""
        for name, weight in learned(self._model).items():
            weight.copy_(self._weights[name])
        self._weights = {}

    def about(self) -> dict[str, float]:
        """What a checkpoint says of it."""
        return {"best_step": self.step, "best_loss": self.loss} if self.step else {}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it, no copies."""
        return {BEST + name: weight for name, weight in self._weights.items()}

    def make_room(self, about: Mapping[str, Any]) -> dict[str, Tensor]:
        """Be that of a checkpoint which says `about`; what is to be read into, by its names there."""
        self.step, self.loss = int(about.get("best_step", 0)), float(about.get("best_loss", math.inf))
        weights = learned(self._model).items() if self.step else ()
        self._weights = {name: torch.zeros_like(weight.detach()) for name, weight in weights}
        return self.state()
