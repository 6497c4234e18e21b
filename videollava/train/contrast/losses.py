"""The two contrastive losses: softmax (CLIP's InfoNCE) and sigmoid (SigLIP's, arXiv 2303.15343).

In: a rank's normalised embeddings, float32. Out: its share of the loss, and exact gradients over all ranks. Each rank
compares its own rows alone with all: logits are (B, ranks*B), so that memory grows with the ranks and not with their
square. Averaged over ranks (as an engine does with gradients) it is the loss of one rank that holds all.

Equal captions (captions_B: their numbers) are all right answers: with few distinct captions a batch holds many pairs
that are no negatives of each other. Pairs that are not present_B take no part, neither as rows nor as negatives.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from videollava.train.engine import Engine

__all__ = ["contrastive_loss", "guess_and_floor", "sigmoid_loss", "softmax_loss"]

ABSENT = -1e9  # a logit that no softmax sees; -inf times the zero that is wanted of it would be no number


def contrastive_loss(
    engine: Engine,
    media_BD: Tensor,
    text_BD: Tensor,
    captions_B: Tensor,
    scale: Tensor,
    present_B: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """The sigmoid loss where there is a learned bias, which it alone has; else the softmax loss."""
    given = (engine, media_BD, text_BD, captions_B, scale, present_B)
    return softmax_loss(*given) if bias is None else sigmoid_loss(*given, bias)


def softmax_loss(
    engine: Engine, media_BD: Tensor, text_BD: Tensor, captions_B: Tensor, scale: Tensor, present_B: Tensor
) -> Tensor:
    """Symmetric InfoNCE of this rank's pairs against the pairs of all ranks."""
    all_media, all_text, all_captions, all_present = (
        _gather(engine, x) for x in (media_BD, text_BD, captions_B, present_B)
    )
    same = ((captions_B[:, None] == all_captions[None]) & all_present[None]).float()
    wanted = same / same.sum(1, keepdim=True).clamp(min=1)
    # The mean over the present pairs of all ranks.
    share = present_B * (engine.ranks / all_present.sum().clamp(min=1))
    losses = [
        -((wanted * (scale * a @ b.T).masked_fill(~all_present, ABSENT).log_softmax(1)).sum(1) * share).sum()
        for a, b in ((media_BD, all_text), (text_BD, all_media))
    ]
    return (losses[0] + losses[1]) / 2


def sigmoid_loss(
    engine: Engine,
    media_BD: Tensor,
    text_BD: Tensor,
    captions_B: Tensor,
    scale: Tensor,
    present_B: Tensor,
    bias: Tensor,
) -> Tensor:
    """Every medium with every text, right or wrong, each by itself; the sum, divided by the number of pairs.

    A rank has its media with the texts of all: that is every combination once, and media are never gathered.
    """
    all_text, all_captions, all_present = (_gather(engine, x) for x in (text_BD, captions_B, present_B))
    right = captions_B[:, None] == all_captions[None]
    logits = scale * media_BD @ all_text.T + bias
    losses = -F.logsigmoid(torch.where(right, logits, -logits))
    there = present_B[:, None] & all_present[None]
    return (losses * there).sum() * (engine.ranks / all_present.sum().clamp(min=1))


def guess_and_floor(captions_B: Tensor, present_B: Tensor, sigmoid: bool = False) -> tuple[float, float]:
    """The losses of guessing and of knowing, of a whole batch: captions' numbers, and which pairs are there.

    softmax: guessing gives all pairs the same chance, ln(pairs); knowing is the mean of ln(pairs with that caption).
    sigmoid: guessing says of every combination what share of them is right; knowing is 0.
    """
    there = captions_B[present_B]
    if not len(there):
        return 0.0, 0.0
    alike = (there[:, None] == there[None]).sum(1).double()
    if not sigmoid:
        return math.log(len(there)), float(alike.log().mean())
    right = float(alike.mean()) / len(there)
    parts = (-share * math.log(share) for share in (right, 1 - right) if share)
    return len(there) * sum(parts), 0.0


def _gather(engine: Engine, tensor: Tensor) -> Tensor:
    """This tensor from all ranks, in their order, with the gradient of every rank's loss."""
    if engine.ranks == 1:
        return tensor
    gathered: Tensor = _Gathered.apply(tensor, engine)
    return gathered


class _Gathered(torch.autograd.Function):
    """Gathers forward, sums over ranks backward: each rank's loss holds the embeddings of all.

    A gather without gradient leaves out what others' losses say of this rank's embeddings (OpenCLIP's issue 616).
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, engine: Engine) -> Tensor:
        ctx.engine = engine
        gathered: Tensor = engine.gather(tensor)
        return gathered

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        engine = ctx.engine
        summed: Tensor = engine.sum(grad.contiguous())
        return summed.chunk(engine.ranks)[engine.rank], None
