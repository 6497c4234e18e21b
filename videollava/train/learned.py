"""Whether a part of alignment learned anything: its loss at the end, between guessing and knowing.

What guessing and knowing cost depends on the batch's captions (contrast/losses.py). The share of the way that was gone
tells batches and data sets of any size apart from one that learned nothing, and so does it cheaply that it
is asked anew at the end of every run, a resumed one too: on the last epoch's first batches, without dropout.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from videollava.errors import InputError
from videollava.tracking import log_metrics
from videollava.train.contrast.losses import guess_and_floor
from videollava.train.measure import keys_of
from videollava.train.validation import without_dropout

if TYPE_CHECKING:
    from videollava.train.loop import Job

__all__ = ["check_learned"]

BATCHES = 8  # asked at the end


def check_learned(job: Job, least: float, sigmoid: bool = False) -> None:
    """InputError, with a hint, where less than `least` of the way from guessing to knowing was gone.

    The share is journalled as `learned`. sigmoid: of that loss. Called on every rank.
    """
    if not job.packs:  # no epoch of it was asked for
        return
    packs = job.packs[-1]
    asked = [_ask(job, packs, step, sigmoid) for step in range(min(BATCHES, len(packs.plan)))]
    loss, guess, floor = (sum(values) / len(asked) for values in zip(*asked, strict=True))
    share = (guess - loss) / (guess - floor) if guess > floor else 0.0
    log_metrics(job.logged_before + job.steps, learned=share)
    if not least or share >= least:
        return
    epochs, rate = keys_of(job.name)
    raise InputError(
        f"{job.name}: not learned: its loss is {loss:.2f} at the end, where guessing gives {guess:.2f} and knowing "
        f"{floor:.2f} ({share:.0%} of the way; align.least_learned asks for {least:.0%}). Look whether captions belong "
        f"to their media and differ ({guess - floor:.2f} is all there is to learn in a batch), change {rate} (now "
        f"{job.settings.learning_rate:g}), raise {epochs} (now {job.settings.epochs}), or accept it by "
        "align.least_learned: 0"
    )


@torch.no_grad()
def _ask(job: Job, packs: Any, step: int, sigmoid: bool) -> tuple[float, float, float]:
    """Loss, guess and floor of one step's batch over all ranks."""
    engine = job.engine
    (number,) = packs.plan.packs_of(step, engine.rank)
    batch: Any = replace(packs[number], kept=None)  # all patches
    with without_dropout(engine.called, engine.device):
        loss = job.forward(engine.called, batch, 1.0)
    captions, present = (engine.gather(x.to(engine.device)) for x in (batch.captions, batch.present))
    mean = engine.sum(loss.detach().double()) / engine.ranks
    return float(mean), *guess_and_floor(captions.cpu(), present.cpu(), sigmoid)
