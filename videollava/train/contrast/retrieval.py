"""Zero-shot retrieval over held-out pairs, measured while a vision encoder learns.

Each distinct caption asks for its medium among all: right where the nearest medium has that caption; and each medium
for its caption. Nothing is learned from it and nothing drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from videollava.data.load.batches import load_batches
from videollava.data.load.packing import Plan
from videollava.data.load.pairs import Pairs
from videollava.train.engine import Engine
from videollava.train.launch.pulse import beat
from videollava.train.validation import without_dropout

__all__ = ["MOST", "ask_retrieval", "plan_gallery", "retrieval_figures"]

MOST = 2000  # pairs of a gallery: it is encoded at every validation


def plan_gallery(pairs: int, ranks: int, batch: int) -> Plan:
    """Up to MOST of the pairs, evenly chosen and each once, then the first ones again until all ranks have as many."""
    chosen = np.linspace(0, pairs - 1, min(pairs, MOST)).round().astype(np.int32)
    share = min(batch, -(-len(chosen) // ranks))
    steps = -(-len(chosen) // (share * ranks))
    packs = np.arange(steps * ranks + 1, dtype=np.int64) * share
    return Plan(ranks, np.resize(chosen, steps * ranks * share), packs, np.arange(steps + 1) * ranks)


def ask_retrieval(
    packs: Pairs, engine: Engine, workers: int, name: str
) -> Callable[[nn.Module], dict[str, float]]:
    """What a validation calls, on every rank, with the model as it is trained. name: of the media, in its figures."""
    return lambda model: _ask(packs, engine, workers, name, model)


@torch.no_grad()
def _ask(packs: Pairs, engine: Engine, workers: int, name: str, model: nn.Module) -> dict[str, float]:
    plan, device = packs.plan, engine.device
    numbers = [number for step in range(len(plan)) for number in plan.packs_of(step, engine.rank)]
    rows: list[list[Tensor]] = []
    with without_dropout(model, device):
        for batch in load_batches(packs, numbers, workers, device.type == "cuda"):  # type: ignore[arg-type]
            given: Any = batch
            media = model(pixel_values=given.pixels.to(device)).image_embeds.float()
            here = (media, given.texts, given.captions, given.present)
            rows.append([engine.gather(part.to(device)).cpu() for part in here])
            beat()
    once = min(len(plan.samples), len(np.unique(plan.samples)))
    media_ND, text_ND, captions_N, present_N = (torch.cat(side)[:once] for side in zip(*rows, strict=True))
    return retrieval_figures(media_ND[present_N], text_ND[present_N], captions_N[present_N], name)


def retrieval_figures(media_ND: Tensor, text_ND: Tensor, captions_N: Tensor, name: str) -> dict[str, float]:
    """R@1 of both directions, how many distinct captions ask, and chance: the mean share of right media.

    name: of the media, a part of each figure's: encoders learn one after another, and each has curves of its own.
    """
    if not len(captions_N):
        return {}
    distinct, number_N = captions_N.unique(return_inverse=True)
    first = torch.zeros_like(distinct).scatter_(0, number_N.flip(0), torch.arange(len(number_N)).flip(0))
    logits_CN = text_ND[first] @ media_ND.T
    to_media = number_N[logits_CN.argmax(1)] == torch.arange(len(distinct))
    to_text = logits_CN.argmax(0) == number_N
    return {
        f"text_to_{name}_r1": float(to_media.double().mean()),
        f"{name}_to_text_r1": float(to_text.double().mean()),
        f"{name}_chance_r1": 1 / len(distinct),
        f"{name}_captions": float(len(distinct)),
    }
