"""Cached gradients: a batch encoded in pieces has the loss and the gradients of the batch encoded whole, at 1e-6."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videollava.data.load.pairs import PairBatch
from videollava.model.encoders import LanguageBind, pair_config
from videollava.params import Encoder, Model
from videollava.train.contrast.steps import Contrast

SMALL = Encoder(width=16, layers=2, heads=2, mlp=32)
SHAPE = Model(image_size=16, patch_size=8, frames=2, embed_dim=16, vision=SMALL, text=SMALL)
ROWS, WORDS = 7, 20
ENGINE: Any = SimpleNamespace(
    ranks=1,
    rank=0,
    device=torch.device("cpu"),
    backward=lambda loss: loss.backward(),
    micro_step=lambda last: nullcontext(),
)


def begin(loss: str, kind: Any) -> LanguageBind:
    torch.manual_seed(0)
    config = pair_config(SHAPE, kind, WORDS, 8)
    config.logit_bias_init_value = -10.0 if loss == "sigmoid" else None
    pair = LanguageBind(config)
    # Random temporal attention, which begins as nothing.
    for name, weight in pair.named_parameters():
        if "temporal" in name and weight.ndim > 1:
            nn.init.normal_(weight, std=0.2)
    pair.text_model.requires_grad_(kind == "image")
    return pair.train()


def clips() -> PairBatch:
    """Clips of which half the patches are seen; one is lost, two captions are the same."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (ROWS, 2, 3, 16, 16), dtype=torch.uint8, generator=draw)
    texts = nn.functional.normalize(torch.randn(ROWS, 16, generator=draw), dim=-1)
    kept = torch.stack([torch.randperm(4, generator=draw)[:2].sort().values for _ in range(ROWS)])
    return batch(pixels, torch.ones(ROWS, 5, dtype=torch.int64), texts, kept)


def captions() -> PairBatch:
    first, second = torch.ones(ROWS, 5, dtype=torch.int64), torch.ones(ROWS, 5, dtype=torch.int64)
    first[:, 3:], second[:, 1] = 0, 0
    return batch(second, first, torch.empty(ROWS, 0), None)


def batch(pixels: Tensor, mask: Tensor, texts: Tensor, kept: Tensor | None) -> PairBatch:
    ids = torch.randint(0, WORDS, (ROWS, 5), generator=torch.Generator().manual_seed(2))
    present = torch.tensor([True] * 3 + [False] + [True] * 3)
    numbers = torch.tensor([0, 1, 2, 3, 4, 1, 5])
    return PairBatch(0, ids, mask, pixels, numbers, texts, present, [1] * 6, kept=kept)


def learned(pair: LanguageBind, given: PairBatch, micro_batch: int) -> dict[str, Tensor]:
    """The loss, and the gradient of every weight that has one."""
    pair.zero_grad()
    torch.manual_seed(3)
    contrast = Contrast(ENGINE, pair, micro_batch)
    if micro_batch:
        loss = contrast.learn(pair, given, True)
    else:
        loss = contrast.forward(pair, given, 1.0)
        loss.backward()
    gradients = {n: p.grad.clone() for n, p in pair.named_parameters() if p.grad is not None}
    # Of the factor itself, exp(logit_scale): it multiplies similarities, which are of size 1 as all else here is.
    gradients["logit_scale"] /= pair.logit_scale.detach().exp()
    return {"loss": loss.detach()} | gradients


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest value where that is above 1."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1))


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("pieces", [1, 3, ROWS])
def test_pieces_learn_what_the_whole_batch_does_in_float32_at_1e_6(loss: str, kind: str, pieces: int) -> None:
    pair = begin(loss, kind)
    given = clips() if kind == "video" else captions()
    wanted, found = learned(pair, given, 0), learned(pair, given, pieces)
    assert found.keys() == wanted.keys()
    assert len(wanted) > 20
    assert ("logit_bias" in wanted) == (loss == "sigmoid")
    for name, value in wanted.items():
        assert apart(found[name], value) < 1e-6, name


def test_both_passes_over_a_piece_draw_the_same() -> None:
    """With dropout: pieces as large as the batch draw what the whole batch draws, in both passes."""
    pair = begin("softmax", "video")
    layers: Any = pair.vision_model.encoder.layers
    for layer in layers:
        layer.self_attn.dropout = 0.3
    wanted, found = learned(pair, clips(), 0), learned(pair, clips(), ROWS)
    for name, value in wanted.items():
        assert apart(found[name], value) < 1e-6, name
    pair.eval()
    assert not torch.equal(learned(pair, clips(), 0)["loss"], wanted["loss"])  # it did drop something


def test_only_a_piece_is_held_with_a_graph() -> None:
    """What the vision encoder keeps for the backward pass at any time is a piece's."""
    pair, most = begin("softmax", "video"), 0

    def count(value: Tensor) -> Tensor:
        nonlocal most
        most = max(most, len(value) if value.ndim == 3 else 0)  # (clips*frames, patches, width)
        return value

    peaks = []
    for pieces in (0, 2):
        most = 0
        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            learned(pair, clips(), pieces)
        peaks.append(most)
    assert peaks == [2 * ROWS, 2 * 2]
