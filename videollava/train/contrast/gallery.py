"""Media that are encoded while an encoder learns, each once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from videollava.data.load.packing import Plan
from videollava.train.engine import Engine
from videollava.train.launch.pulse import beat
from videollava.train.validation import without_dropout

__all__ = ["encode_gallery", "plan_gallery"]


def plan_gallery(media: int, ranks: int, batch: int, most: int) -> Plan:
    """Up to `most` of the media, evenly chosen and each once, then the first ones again till all ranks have as many."""
    chosen = np.linspace(0, media - 1, min(media, most)).round().astype(np.int32)
    share = min(batch, -(-len(chosen) // ranks))
    steps = -(-len(chosen) // (share * ranks))
    packs = np.arange(steps * ranks + 1, dtype=np.int64) * share
    return Plan(ranks, np.resize(chosen, steps * ranks * share), packs, np.arange(steps + 1) * ranks)


@torch.no_grad()
def encode_gallery(
    batches: Iterable[Any],
    plan: Plan,
    engine: Engine,
    model: nn.Module,
    beside: Callable[[Any], tuple[Tensor, ...]] = lambda batch: (),
) -> list[Tensor]:
    """Of all ranks' media, in the plan's order: vectors (N, D), float32 on the host, whether each was there (N,), and
    what is beside them in a batch. batches: this rank's, of `plan`. model: as it is trained; every rank calls it.
    """
    rows: list[list[Tensor]] = []
    with without_dropout(model, engine.device):
        for batch in batches:
            media = model(pixel_values=batch.pixels.to(engine.device)).image_embeds.float()
            here = (media, batch.present, *beside(batch))
            rows.append([engine.gather(part.to(engine.device)).cpu() for part in here])
            beat()
    once = len(np.unique(plan.samples))
    return [torch.cat(side)[:once] for side in zip(*rows, strict=True)]
