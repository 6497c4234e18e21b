"""Training as videollava does it (its packer, its loop, its step) on made samples, timed after the first step."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .samples import Packed, Samples, Stage

__all__ = ["Run", "now", "train_packed"]

Moment = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """What was run: the plan, FLOPs of each sample, when the first step and the last ended, each step's loss."""

    plan: Any
    cost: NDArray[np.float64]
    ends: list[Moment]
    losses: list[float]

    def samples_of(self, step: int) -> NDArray[np.int32]:
        """Numbers of the samples of one step."""
        first, last = self.plan.packs[self.plan.steps[step : step + 2]]
        return self.plan.samples[first:last]


def now() -> Moment:
    """Seconds on the wall, and of this process's CPU time: other work on the machine hardly shows in the latter."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def train_packed(
    model: Any, groups: list[dict[str, Any]], stage: Stage, samples: Samples, settings: Any, work: Any
) -> Run:
    """One epoch of `samples`, stage.batch a step, without checkpoints. The model learns in place.

    settings, work: the loop's.
    """
    from videollava.data.load.packing import Lengths, plan_epoch
    from videollava.train import loop
    from videollava.train.engine import make_engine
    from videollava.train.instruct import forward
    from videollava.train.lengths import prices_of
    from videollava.train.saving.saver import Saver

    config = model.get_base_model().config if hasattr(model, "get_base_model") else model.config
    counts = [(samples.kinds == kind).astype(np.int64) for kind in (0, 1)]
    cost = prices_of(config, stage.language_learns).cost(samples.tokens, samples.targets, *counts)
    plan = plan_epoch(
        Lengths(samples.tokens, samples.targets, cost),
        batch_size=stage.batch,
        ranks=1,
        budget=work.tokens_per_pack,
        seed=0,
        epoch=0,
    )
    run = Run(plan, cost, [], [])

    taken: list[Any] = []

    def learn(*given: Any) -> Any:
        taken.append(real(*given))
        # Waited for at these two alone: in between the loop works ahead, as it does.
        if len(taken) in (1, len(plan)):
            run.ends.append(now())
        return taken[-1]

    engine, real, save, resume = make_engine(settings, work), loop._learn, Saver.save, Saver.resume
    # No checkpoint is timed, and no disk has to have room for those of 7 billion weights.
    loop._learn, Saver.save, Saver.resume = learn, lambda *_, **__: None, lambda *_, **__: (0, {})
    with tempfile.TemporaryDirectory() as folder:
        job = loop.Job(
            name=stage.name,
            model=model,
            groups=groups,
            forward=forward,
            packs=[Packed(samples, plan)],
            settings=settings,
            work=work,
            checkpoints=Path(folder),
            seed=0,
            engine=engine,
        )
        try:
            loop.train(job)
            run.losses.extend(figures.read()[0] for figures in taken)
        finally:
            loop._learn, Saver.save, Saver.resume = real, save, resume
    return run
