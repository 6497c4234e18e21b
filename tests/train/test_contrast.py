"""The contrastive loss on several ranks: the gradient of one rank that holds all pairs."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from equality import FLOAT32
from torch import Tensor, nn

from videollava.data.load.pairs import plan_pairs
from videollava.errors import InputError
from videollava.train.align import contrastive_loss
from videollava.train.engine.ranks import end_ranks, join_ranks

PAIRS, WIDTH, LOST = 8, 6, 5


def gradients(engine: Any, part: slice) -> list[Tensor]:
    """Of two small encoders and the temperature, for the pairs in `part`."""
    torch.manual_seed(0)
    inputs = torch.randn(2, PAIRS, 5)
    captions = torch.arange(PAIRS).div(2, rounding_mode="floor")  # every caption twice
    encoders = nn.ModuleList([nn.Linear(5, WIDTH), nn.Linear(5, WIDTH)])
    scale = nn.Parameter(torch.tensor(2.0))
    media, text = (
        nn.functional.normalize(encoder(given[part]), dim=-1)
        for encoder, given in zip(encoders, inputs, strict=True)
    )
    present = torch.ones(PAIRS, dtype=torch.bool)
    present[LOST] = False
    contrastive_loss(engine, media, text, captions[part], scale.exp(), present[part]).backward()
    return [weight.grad for weight in (*encoders.parameters(), scale) if weight.grad is not None]


def one_rank(rank: int, ranks: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    engine: Any = join_ranks(timedelta(minutes=1))
    share = PAIRS // ranks
    found = gradients(engine, slice(rank * share, (rank + 1) * share))
    means = [engine.sum(grad) / ranks for grad in found]
    torch.save(means, Path(folder) / f"{rank}.pt")
    end_ranks()


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_float32_gradients_on_ranks_are_those_of_one(ranks: int, tmp_path: Path) -> None:
    expected = gradients(SimpleNamespace(ranks=1, rank=0), slice(None))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_rank, (ranks, port, str(tmp_path)), nprocs=ranks)
    for rank in range(ranks):
        for found, wanted in zip(torch.load(tmp_path / f"{rank}.pt"), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=FLOAT32, atol=1e-6)


def test_a_lost_pair_is_as_if_it_had_never_been_there() -> None:
    torch.manual_seed(0)
    media, text = (nn.functional.normalize(torch.randn(PAIRS, WIDTH), dim=-1) for _ in range(2))
    captions, present = torch.arange(PAIRS), torch.ones(PAIRS, dtype=torch.bool)
    present[LOST] = False
    one, scale = SimpleNamespace(ranks=1, rank=0), torch.tensor(10.0)
    kept = contrastive_loss(one, media[present], text[present], captions[present], scale, present[present])
    torch.testing.assert_close(contrastive_loss(one, media, text, captions, scale, present), kept)


def test_ranks_that_do_not_divide_a_batch_are_refused() -> None:
    assert len(plan_pairs(100, 32, 2, seed=0, epoch=0).pack(0)) == 16
    with pytest.raises(InputError, match="32 pairs cannot be shared out evenly to 3 ranks"):
        plan_pairs(100, 32, 3, seed=0, epoch=0)
