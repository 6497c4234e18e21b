"""One step of contrastive training: a batch encoded whole, or in pieces with cached gradients (arXiv 2101.06983).

In pieces: all are encoded without a graph, the loss of the whole batch gives the gradients of the embeddings, and each
piece is encoded again with a graph to hand its own on. Memory holds one piece's activations, the loss is the whole
batch's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from videollava.data.load.pairs import PairBatch
from videollava.model.encoders import LanguageBind
from videollava.train.contrast.losses import contrastive_loss
from videollava.train.engine import Engine

__all__ = ["Contrast"]

HIGHEST_SCALE = math.log(100.0)  # CLIP's bound on the learned temperature


@dataclass(frozen=True)
class Contrast:
    """What the loop asks of alignment. micro_batch: pairs of this rank that are encoded at once; 0: all."""

    engine: Engine
    pair: LanguageBind
    micro_batch: int = 0

    def forward(self, model: nn.Module, batch: Any, share: Tensor | float) -> Tensor:
        """This rank's loss, of the batch encoded whole."""
        self._bound_scale()
        given = _Given.of(batch, self.engine)
        return self._compare(*given.encode(model, slice(None)), given)

    def learn(self, model: nn.Module, batch: Any, last: bool) -> Tensor:
        """This rank's loss; its gradients are added, a piece of the batch at a time. last: of a step's batches."""
        self._bound_scale()
        given, engine = _Given.of(batch, self.engine), self.engine
        pieces = [
            slice(start, start + self.micro_batch) for start in range(0, len(given.present), self.micro_batch)
        ]
        with _draws_again(engine.device), torch.no_grad():
            parts = [given.encode(model, piece) for piece in pieces]
        sides = [torch.cat(side) for side in zip(*parts, strict=True)]
        learned = sides[: given.learned]
        for side in learned:
            side.requires_grad_()
        loss = self._compare(sides[0], sides[1], given)
        engine.backward(loss)
        for piece in pieces:
            with engine.micro_step(last and piece is pieces[-1]):
                encoded = given.encode(model, piece)[: given.learned]
                engine.backward(_hand_on(encoded, [side.grad[piece] for side in learned]))  # type: ignore[index]
        return loss.detach()

    def _compare(self, first: Tensor, second: Tensor, given: _Given) -> Tensor:
        scale = self.pair.logit_scale.exp()
        return contrastive_loss(
            self.engine, first, second, given.captions, scale, given.present, self.pair.logit_bias
        )

    @torch.no_grad()
    def _bound_scale(self) -> None:
        # The value itself, as in CLIP: a bound inside the loss has no gradient, and the scale could not come back.
        self.pair.logit_scale.clamp_(max=HIGHEST_SCALE)


@dataclass(frozen=True)
class _Given:
    """A batch on the device."""

    ids: Tensor
    mask: Tensor
    pixels: Tensor
    captions: Tensor
    texts: Tensor
    present: Tensor
    kept: Tensor | None

    @classmethod
    def of(cls, batch: PairBatch, engine: Engine) -> _Given:
        parts = (
            *(batch.input_ids, batch.attention_mask, batch.pixels, batch.captions, batch.texts),
            *(batch.present, batch.kept),
        )
        return cls(*(part if part is None else part.to(engine.device, non_blocking=True) for part in parts))  # type: ignore[arg-type]

    @property
    def learned(self) -> int:
        """Sides that are encoded here: captions in two views, or media alone, whose texts are there already."""
        return 2 if self.pixels.ndim == 2 else 1

    def encode(self, model: nn.Module, rows: slice) -> tuple[Tensor, Tensor]:
        """Both sides (rows, D), normalised, float32."""
        if self.learned == 2:
            mask = torch.cat([self.mask[rows], self.pixels[rows]])
            both = model(pixel_values=None, input_ids=self.ids[rows].repeat(2, 1), attention_mask=mask)
            first, second = both.text_embeds.chunk(2)
        else:
            kept = None if self.kept is None else self.kept[rows]
            first, second = model(pixel_values=self.pixels[rows], kept=kept).image_embeds, self.texts[rows]
        return first.float(), second.float()


def _hand_on(embeddings: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A number whose gradients with respect to the embeddings are the given ones."""
    products = [(side * gradient).sum() for side, gradient in zip(embeddings, gradients, strict=True)]
    return torch.stack(products).sum()


@contextmanager
def _draws_again(device: torch.device) -> Iterator[None]:
    """What is drawn inside (dropout) is drawn again after it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
