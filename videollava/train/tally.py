"""Whose the loss of a step is: by kind of sample for the curves, by record where something is wrong.

In: the losses of a batch's target tokens, as the model returns them beside its loss. They stay on the device: no
micro-step waits for them, and what each record lost is only asked for after a spike.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from videollava.data.load.batches import KINDS, Batch

__all__ = ["Tally"]


class Tally:
    """This rank's target losses of one step.

    sums: (kinds,) float32 on the device, by data.batches.KINDS. labels: as many counts, on the host.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.clear()

    def clear(self) -> None:
        """Begin a step."""
        self.sums = torch.zeros(len(KINDS), device=self.device)
        self.labels = [0] * len(KINDS)
        self._kept: list[tuple[Batch, Tensor]] = []

    def add(self, batch: Batch, target_losses: Tensor) -> None:
        """Count one pack: its target tokens' losses (targets,), in their order."""
        kinds = batch.target_kinds
        if kinds is None:
            raise ValueError(f"pack {batch.number}: no target_kinds")
        there = kinds.to(self.device, non_blocking=True)
        every = torch.arange(len(KINDS), device=self.device)
        # Masked sums and no index_add: on CUDA that adds in an order of its own, and a rerun would not give the same.
        self.sums += torch.where(there == every[:, None], target_losses, 0.0).sum(1)
        self.labels = [a + b for a, b in zip(self.labels, _count(kinds), strict=True)]
        text = replace(batch, images=None, videos=None, image_features=None, video_features=None)
        self._kept.append((text, target_losses))

    def worst(self) -> list[tuple[int, float]]:
        """Rows of this rank's records and the mean loss of each, what is no number and then the highest first.

        Waits for the device.
        """
        found: list[tuple[int, float]] = []
        for batch, losses in self._kept:
            segments = batch.target_segments
            sums = torch.zeros(len(batch.lengths)).index_add_(0, segments, losses.float().cpu())
            counts = torch.bincount(segments, minlength=len(batch.lengths)).tolist()
            rows = zip(batch.records, sums.tolist(), counts, strict=False)  # a blank pack has no record
            found += [(row, total / count) for row, total, count in rows if count]
        return sorted(found, key=_by_loss, reverse=True)


def _count(kinds: Tensor) -> list[int]:
    counts: list[int] = torch.bincount(kinds, minlength=len(KINDS)).tolist()
    return counts


def _by_loss(record: tuple[int, float]) -> float:
    return record[1] if math.isfinite(record[1]) else math.inf
