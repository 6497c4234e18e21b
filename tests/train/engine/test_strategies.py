"""Every strategy of torch's engine learns what one rank does, with what makes sharding hard: frozen layers, lengths
that no number of ranks divides, fewer rows than ranks, a shared table, a single number, a module that stays whole.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import FLOAT32
from torch import Tensor, nn
from torch.nn import functional as F

from videollava.machine import Strategy
from videollava.train.engine.ranks import Ranks, end_ranks, join_ranks
from videollava.train.engine.sharding import is_shard
from videollava.train.engine.torch_engine import TorchEngine
from videollava.train.engine.types import Learning

STEPS, MICRO, ROWS = 20, 4, 2  # steps, packs a step over all ranks, rows a pack
WORDS, WIDTH = 13, 7


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 3), nn.Linear(3, WIDTH, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.down(self.up(self.norm(states)).tanh())


class Toy(nn.Module):
    """A table that is the head as well, layers of which one is frozen, a projector of one row, a temperature."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.tower = nn.Linear(5, 1).requires_grad_(False)
        self.projector = nn.Linear(1, WIDTH)
        self.table = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.layers[1].requires_grad_(False)
        self.gate = nn.Linear(WIDTH, 1)  # of one row: the second rank has none of it
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.head.weight = self.table.weight
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, ids: Tensor, pixels: Tensor) -> Tensor:
        states = self.table(ids) + self.projector(self.tower(pixels))
        for layer in self.layers:
            states = layer(states)
        logits: Tensor = self.head(states * self.gate(states).sigmoid()) * self.temperature
        return logits


def learn(engine: TorchEngine, tied: bool) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses and gradient norms of STEPS steps, and the weights then."""
    torch.manual_seed(1)
    model = Toy(tied)
    wanted = {name: weight.shape for name, weight in model.named_parameters()}
    draws = torch.Generator().manual_seed(2)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.requires_grad and p.ndim > 1], "lr": 1e-2},
        {
            "params": [p for p in model.parameters() if p.requires_grad and p.ndim <= 1],
            "lr": 1e-2,
            "weight_decay": 0.0,
        },
    ]
    called, _ = engine.prepare(model, Learning(groups, 0.1, whole=[model.tower]))
    assert not any(is_shard(weight) for weight in model.tower.parameters())
    assert is_shard(model.table.weight) is (engine.ranks > 1)
    losses, norms = [], []
    for _ in range(STEPS):
        ids = torch.randint(0, WORDS, (MICRO, ROWS), generator=draws)
        pixels = torch.randn(MICRO, ROWS, 5, generator=draws)
        total, mine = torch.zeros(()), range(engine.rank, MICRO, engine.ranks)
        for pack in mine:
            with engine.micro_step(last=pack == mine[-1]):
                loss = F.cross_entropy(called(ids[pack], pixels[pack]), (ids[pack] + 1) % WORDS)
                engine.backward(loss * engine.ranks / MICRO)
                total += loss.detach() / MICRO
        norms.append(float(engine.step(0.5)))
        losses.append(float(engine.sum(total)))
    engine.make_whole(model, learned_only=False)
    weights = dict(model.named_parameters()) if engine.first else {}
    assert all(weight.shape == wanted[name] for name, weight in weights.items())
    return losses, norms, {name: weight.detach() for name, weight in weights.items()}


def one_rank(rank: int, ranks: int, port: int, folder: str, runs: list[tuple[Strategy, int]]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    found = {}
    for strategy, per_node in runs:
        os.environ["LOCAL_WORLD_SIZE"] = str(per_node)
        for tied in (True, False):
            engine = TorchEngine(strategy, False, join_ranks(timedelta(minutes=1)))
            found[strategy, per_node, tied] = learn(engine, tied)
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    end_ranks()


@pytest.mark.parametrize(
    ("ranks", "runs"),
    [
        (2, [("sharded", 2), ("sharded-node", 2), ("sharded-node", 1), ("replicated", 2)]),
        pytest.param(4, [("sharded", 4), ("sharded-node", 2), ("replicated", 4)], marks=pytest.mark.slow),
    ],
)
def test_losses_norms_and_weights_are_those_of_one_rank(
    ranks: int, runs: list[tuple[Strategy, int]], tmp_path: Path
) -> None:
    """Float32, 1e-5 over 20 steps."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_rank, (ranks, port, str(tmp_path), runs), nprocs=ranks)
    found = torch.load(tmp_path / "found.pt")
    assert len(found) == 2 * len(runs)
    for (_, _, tied), (losses, norms, weights) in found.items():
        wanted_losses, wanted_norms, wanted_weights = learn(TorchEngine("sharded", False, Ranks()), tied)
        assert losses == pytest.approx(wanted_losses, abs=FLOAT32)
        assert norms == pytest.approx(wanted_norms, abs=FLOAT32)
        assert losses[-1] < losses[0]
        assert weights.keys() == wanted_weights.keys()
        for name, weight in wanted_weights.items():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=FLOAT32, msg=name)
