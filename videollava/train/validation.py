"""The loss on samples that are held out of training (`index.held_out`), measured while training goes on.

In: the packs of a validation split, how often a run measures. Out: the mean loss of their target tokens, exact over
all ranks: sums and counts are added, whatever packs and ranks they were in. The rhythm is the recipe's
(`<stage>.validations` times a run, evenly, the last step among them) and not the checkpoints', which are the
machine's: the curve is the same on every machine. Nothing of it is learned from, nor does it draw a random number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from videollava.data.load.batches import Batch, load_batches
from videollava.data.load.packing import Lengths, Plan, plan_epoch
from videollava.train.engine import Engine
from videollava.train.launch.pulse import beat

__all__ = ["Question", "Validation", "held_out_loss", "plan_once", "without_dropout"]


@dataclass(frozen=True)
class Question:
    """What gives figures of the model as it is trained, on every rank. shown: by figure, what the progress line calls
    it; the others are journalled alone.
    """

    ask: Callable[[nn.Module], dict[str, float]]
    shown: Mapping[str, str]


@dataclass(frozen=True)
class Validation:
    """What is held out, packed for the ranks, and how many times a run it is measured.

    questions: what is asked in the place of the held-out loss.
    """

    packs: Any
    times: int
    workers: int = 0
    questions: Sequence[Question] = ()

    @property
    def shown(self) -> dict[str, str]:
        """By figure, what the progress line calls it."""
        asked = {name: called for question in self.questions for name, called in question.shown.items()}
        return asked or {"held_out_loss": "held out"}

    def steps(self, steps: int) -> frozenset[int]:
        """Numbers of steps done (1 to `steps`) after which it is due."""
        return frozenset(-(-steps * part // self.times) for part in range(1, self.times + 1))


def plan_once(lengths: Lengths, ranks: int, budget: int) -> Plan:
    """Every sample once, in one step: packs as training has them, as many for each rank, so that all make the same
    calls.
    """
    return plan_epoch(lengths, batch_size=len(lengths.tokens), ranks=ranks, budget=budget, seed=0, epoch=0)


@torch.no_grad()
def held_out_loss(
    validation: Validation,
    model: nn.Module,
    forward: Callable[[nn.Module, Batch, Tensor | float], Tensor],
    engine: Engine,
) -> float:
    """The mean loss of the held-out samples' target tokens. Called on every rank, `model` as it is trained."""
    packs, device = validation.packs, engine.device
    numbers = list(packs.plan.packs_of(0, engine.rank))
    total = torch.zeros((), dtype=torch.float64, device=device)
    labels = 0
    with without_dropout(model, device):
        for batch in load_batches(packs, numbers, validation.workers, device.type == "cuda"):
            total += forward(model, batch, 1.0)
            labels += len(batch.targets)
            beat()
            for reason in batch.dropped:
                print(f"left out: {reason}", flush=True)
    both = torch.stack([total, torch.tensor(labels, dtype=torch.float64, device=device)])
    loss, count = engine.sum(both).tolist()
    return float(loss / max(1.0, count))


@contextmanager
def without_dropout(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Asked and not trained, with nothing drawn; afterwards each module is as before, a frozen one too."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, training in before:
            module.training = training
