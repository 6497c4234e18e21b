"""torch by itself on 1 to N ranks: weights, gradients and moments sharded by `fully_shard`, or replicated.

Learned weights and moments are float32; products are computed in bfloat16 by autocast, as on one rank, so that norms,
losses and what runs between the layers stay float32. Where weights are gathered, large ones travel in the bfloat16 they
are computed in. Gradients are reduced in float32. One rank has nothing to shard and no process group: as shards of
one, a tiny Llama's steps took 1.11 times the CPU time of plain ones (`bench.gpu_check.sharded` measures it anew).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from videollava.machine import Strategy
from videollava.train.engine.loading import fill, move_held, put_nowhere
from videollava.train.engine.ranks import join_ranks
from videollava.train.engine.sharding import is_shard, lay_down, lay_mesh, shard
from videollava.train.engine.types import Engine, Learning
from videollava.train.engine.whole import gather_weights

__all__ = ["TorchEngine"]


class TorchEngine(Engine):
    """Strategies sharded, sharded-node and replicated."""

    model: nn.Module
    optimizer: torch.optim.AdamW

    @classmethod
    def start(cls, strategy: Strategy, bf16: bool, patience: timedelta) -> TorchEngine:
        """On this process's device, among the launcher's ranks."""
        return cls(strategy, bf16, join_ranks(patience))

    @property
    def reads_shards(self) -> bool:
        return self.ranks > 1

    def prepare(self, model: nn.Module, learning: Learning) -> tuple[nn.Module, torch.optim.Optimizer]:
        move_held(model, self.device)
        if self.ranks > 1:
            before = {id(weight): name for name, weight in model.named_parameters()}
            unread = put_nowhere(model)
            shard(model, lay_mesh(self.strategy, self.among), self.bf16, learning.whole)
            fill(model, unread, self.among)
            _follow(learning.groups, before, model)
        self.model = model
        self.optimizer = torch.optim.AdamW(
            [part for group in learning.groups for part in _alike(group)],
            weight_decay=learning.weight_decay,
            betas=learning.betas,
            fused=True,  # the default makes copies of all weights at once on CUDA, and many small calls on a CPU
        )
        self.called = _Autocast(model, self) if self.bf16 else model
        return self.called, self.optimizer

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        # Within a group that shards, gradients are exchanged at once: no rank ever holds them whole. Between groups
        # that hold the same shards, at the end of the step alone.
        if self.ranks > 1:
            self.model.set_requires_all_reduce(last)  # type: ignore[operator]
        yield

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, clip: float) -> Tensor:
        learned = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.ranks > 1:
            self._average([p for p in learned if not is_shard(p)])
        norm = _cut(learned, clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def forget(self) -> None:
        self.optimizer.zero_grad()

    def make_whole(self, model: nn.Module, learned_only: bool) -> None:
        lay_down(model)
        shards = [p for p in model.parameters() if is_shard(p) and (p.requires_grad or not learned_only)]
        gather_weights(model, shards, _gathered, self.first)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        lay_down(model)
        held = model.state_dict().items()
        return {n: (t.full_tensor() if isinstance(t, DTensor) else t).detach().cpu() for n, t in held}

    def _average(self, whole: Iterable[nn.Parameter]) -> None:
        """What every rank holds whole and learns, such as a temperature: too small to be worth a bucket."""
        for weight in whole:
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.grad = self.sum(gradient) / self.ranks


class _Autocast(nn.Module):
    """A model whose forward pass computes in bfloat16 where that is safe. Its own weights are another's."""

    def __init__(self, model: nn.Module, engine: Engine) -> None:
        super().__init__()
        self.module, self._engine = model, engine

    def forward(self, *arguments: Any, **named: Any) -> Any:
        with self._engine.autocast():
            return self.module(*arguments, **named)


def _follow(groups: list[dict[str, Any]], before: dict[int, str], model: nn.Module) -> None:
    """Put the shards in the place of the weights that the groups hold, which nothing else holds then."""
    now = dict(model.named_parameters())
    for group in groups:
        group["params"] = [now[before[id(weight)]] for weight in group["params"]]


def _alike(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A group in parts of one kind, shards and whole weights: one call takes no mixture."""
    for kind in (True, False):
        weights = [weight for weight in group["params"] if is_shard(weight) is kind]
        if weights:
            yield group | {"params": weights}


def _cut(learned: list[nn.Parameter], clip: float) -> Tensor:
    """The norm of all gradients, over all ranks; where `clip` is not 0 they are cut to it."""
    kinds = [[p for p in learned if is_shard(p) is kind and p.grad is not None] for kind in (True, False)]
    norms = [_norm(kind) for kind in kinds if kind]
    total = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for kind in kinds if clip else ():
        nn.utils.clip_grads_with_norm_(kind, clip, total)
    return total


def _norm(weights: list[nn.Parameter]) -> Tensor:
    norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def _gathered(weight: nn.Parameter) -> Iterator[Tensor]:
    assert isinstance(weight, DTensor)
    yield weight.full_tensor()
