"""Zero-shot retrieval over held-out pairs, measured while a vision encoder learns.

Each distinct caption asks for its medium among all: right where the nearest medium has that caption; and each medium
for its caption. Nothing is learned from it and nothing drawn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from videollava.data.load.batches import load_batches
from videollava.data.load.pairs import Pairs
from videollava.train.contrast.gallery import encode_gallery
from videollava.train.engine import Engine
from videollava.train.validation import Question

__all__ = ["MOST", "ask_retrieval", "retrieval_figures"]

MOST = 2000  # pairs of a gallery: it is encoded at every validation


def ask_retrieval(packs: Pairs, engine: Engine, workers: int, name: str) -> Question:
    """The question whether captions find their media among `packs`. name: of the media, in its figures."""
    return Question(
        lambda model: _ask(packs, engine, workers, name, model), {f"text_to_{name}_r1": "held-out R@1"}
    )


def _ask(packs: Pairs, engine: Engine, workers: int, name: str, model: nn.Module) -> dict[str, float]:
    plan = packs.plan
    numbers = [number for step in range(len(plan)) for number in plan.packs_of(step, engine.rank)]
    batches: Any = load_batches(packs, numbers, workers, engine.device.type == "cuda")  # type: ignore[arg-type]
    media_ND, present_N, text_ND, captions_N = encode_gallery(
        batches, plan, engine, model, lambda batch: (batch.texts, batch.captions)
    )
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
