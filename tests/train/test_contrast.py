"""Contrastive losses and their gradients: on 1, 2 and 4 ranks, whole and in pieces, and beside open_clip's own."""

from __future__ import annotations

import importlib.util
import os
import socket
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videollava.data.load.pairs import plan_pairs
from videollava.errors import InputError
from videollava.train.contrast.losses import contrastive_loss
from videollava.train.engine.ranks import end_ranks, join_ranks

PAIRS, WIDTH, LOST = 8, 6, 5
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
ONE: Any = SimpleNamespace(ranks=1, rank=0)
LOSSES = ("softmax", "sigmoid")


class Two(nn.Module):
    """Two small encoders, the temperature and, of the sigmoid loss, the bias."""

    def __init__(self, loss: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.media, self.text = nn.Linear(5, WIDTH), nn.Linear(5, WIDTH)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-3.0)) if loss == "sigmoid" else None

    def encode(self, inputs: Tensor) -> list[Tensor]:
        """(2, B, 5) -> normalised (B, WIDTH), twice."""
        both = zip((self.media, self.text), inputs, strict=True)
        return [nn.functional.normalize(encoder(given), dim=-1) for encoder, given in both]

    def gradients(self) -> list[Tensor]:
        return [weight.grad for weight in self.parameters() if weight.grad is not None]


def inputs() -> Tensor:
    return torch.randn(2, PAIRS, 5, generator=torch.Generator().manual_seed(1))


def learned(engine: Any, part: slice, loss: str) -> list[Tensor]:
    """Loss, and gradients, of the pairs in `part`; every caption is there twice, and one pair is lost."""
    two = Two(loss)
    captions = torch.arange(PAIRS).div(2, rounding_mode="floor")
    present = torch.ones(PAIRS, dtype=torch.bool)
    present[LOST] = False
    sides = two.encode(inputs()[:, part])
    value = contrastive_loss(engine, *sides, captions[part], two.scale.exp(), present[part], two.bias)
    value.backward()
    return [value.detach(), *two.gradients()]


def one_rank(rank: int, ranks: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    engine: Any = join_ranks(timedelta(minutes=1))
    share = PAIRS // ranks
    part = slice(rank * share, (rank + 1) * share)
    means = {loss: [engine.sum(x) / ranks for x in learned(engine, part, loss)] for loss in LOSSES}
    torch.save(means, Path(folder) / f"{rank}.pt")
    end_ranks()


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_float32_losses_and_gradients_on_ranks_are_those_of_one_at_1e_6(ranks: int, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_rank, (ranks, port, str(tmp_path)), nprocs=ranks)
    for loss in LOSSES:
        expected = learned(ONE, slice(None), loss)
        assert len(expected) == (6 if loss == "softmax" else 7)
        for rank in range(ranks):
            for found, wanted in zip(torch.load(tmp_path / f"{rank}.pt")[loss], expected, strict=True):
                torch.testing.assert_close(found, wanted, **CLOSE)


def open_clip_losses() -> ModuleType:
    """open_clip's loss.py by itself: the package asks for more than losses need."""
    found = importlib.util.find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        pytest.skip("open_clip_torch is not installed: pip install --no-deps open_clip_torch")
    file = Path(found.submodule_search_locations[0]) / "loss.py"
    spec = importlib.util.spec_from_file_location("open_clip_loss", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_losses_and_gradients_are_open_clips_at_1e_6(loss: str) -> None:
    theirs = open_clip_losses()
    other = theirs.ClipLoss() if loss == "softmax" else theirs.SigLipLoss()
    found, wanted = [], []
    for values, ask in ((found, "ours"), (wanted, "theirs")):
        two = Two(loss)
        media, text = two.encode(inputs())
        scale, bias = two.scale.exp(), two.bias
        if ask == "ours":
            everything = torch.ones(PAIRS, dtype=torch.bool)
            value = contrastive_loss(ONE, media, text, torch.arange(PAIRS), scale, everything, bias)
        else:
            value = other(media, text, scale, bias)
        value.backward()
        values += [value.detach(), *two.gradients()]
    assert len(found) >= 6
    for one, same in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, same, **CLOSE)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_pair_is_as_if_it_had_never_been_there(loss: str) -> None:
    torch.manual_seed(0)
    media, text = (nn.functional.normalize(torch.randn(PAIRS, WIDTH), dim=-1) for _ in range(2))
    captions, present = torch.arange(PAIRS), torch.ones(PAIRS, dtype=torch.bool)
    present[LOST] = False
    scale, bias = torch.tensor(10.0), Two(loss).bias
    kept = contrastive_loss(
        ONE, media[present], text[present], captions[present], scale, present[present], bias
    )
    torch.testing.assert_close(contrastive_loss(ONE, media, text, captions, scale, present, bias), kept)


def test_the_sigmoid_loss_by_hand() -> None:
    """Two pairs: four combinations, two of them right."""
    media, text = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    logits = torch.tensor([[2.0, 1.2], [0.0, 1.6]]) - 1.0
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    by_hand = (1 + (-signs * logits).exp()).log().sum() / 2
    everything, captions = torch.ones(2, dtype=torch.bool), torch.arange(2)
    found = contrastive_loss(ONE, media, text, captions, torch.tensor(2.0), everything, torch.tensor(-1.0))
    torch.testing.assert_close(found, by_hand)


def test_ranks_that_do_not_divide_a_batch_are_refused() -> None:
    assert len(plan_pairs(100, 32, 2, seed=0, epoch=0).pack(0)) == 16
    with pytest.raises(InputError, match="32 pairs cannot be shared out evenly to 3 ranks"):
        plan_pairs(100, 32, 3, seed=0, epoch=0)
