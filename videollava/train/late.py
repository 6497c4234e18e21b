"""Numbers that a device computes, read when they are there: reading waits for them, and for nothing asked for since."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Late"]


class Late:
    """A small tensor on its way to the host since this was made.

    `tolist()` of a tensor waits for all that the device was given until then, so that it would stand idle while the
    host asks for the next step.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._host, self._there = tensor, None
        if tensor.device.type == "cuda":
            self._host = tensor.to("cpu", non_blocking=True)  # pinned: the copy waits its turn on the device
            self._there = torch.cuda.Event()
            self._there.record()

    def read(self) -> list[float]:
        """Its values."""
        if self._there is not None:
            self._there.synchronize()
        found: list[float] = self._host.tolist()
        return found
