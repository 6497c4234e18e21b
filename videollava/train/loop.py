"""The training loop of both stages and of the tiny language model: packs in, a learned model out.

In: a model, its parameter groups, one Plan an epoch, the packs, a checkpoint folder. Out: the model, changed, and the
journal's metrics. One optimiser step is the micro-steps (packs) the plan gives this rank; the loss is the sum over
the step's target tokens of all ranks divided by their number, so ranks, packs and micro-steps do not show in it. What
is counted is what was really read: the next step's batches are taken, and their labels summed over ranks, while the
device computes; nothing in a step waits for the host.
Every step seeds torch by (seed, step, rank): a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from videollava.data.load.batches import Batch, load_batches
from videollava.machine import Work
from videollava.params import Train
from videollava.tracking import log_metrics, log_tags
from videollava.train.best import Best
from videollava.train.ending import between_steps
from videollava.train.engine import Engine
from videollava.train.engine.types import Learning
from videollava.train.going_on import other_checkpoint
from videollava.train.late import Late
from videollava.train.launch.meeting import Together
from videollava.train.launch.pulse import COMPUTING, DATA, OTHERS, at_step, during
from videollava.train.measure import Figures, Teller, sum_over_ranks
from videollava.train.progress import Progress
from videollava.train.saving.engines import DeepSpeedState, TorchState
from videollava.train.saving.opening import open_place
from videollava.train.saving.saver import Saver
from videollava.train.saving.spent import sealed_later
from videollava.train.spending import Spending, open_spending
from videollava.train.spikes import Spikes
from videollava.train.tally import Tally
from videollava.train.trial import try_worst_pack
from videollava.train.validation import Validation, held_out_loss
from videollava.train.wishes import COLUMNS, Decision, Wishes, decide, end_early

__all__ = ["Job", "learning_rate", "train"]


@dataclass
class Job:
    """What one training run is made of.

    groups: parameter groups for AdamW, each with its peak `lr`; betas: AdamW's. forward: (model, batch, labels of the
    step, on the device) -> loss, the sum over the batch's targets divided by that number. packs: one dataset an epoch,
    its plan inside. learn: (model, batch, whether it is the step's last) -> loss; adds the gradients itself, in
    passes of its own. flops: of each epoch's steps, this rank's share, (steps, 2): what is computed, and by PaLM's
    formula (empty: not logged). worst: epoch and number of the pack that needs most memory; it is tried before the
    first step. tally: where `forward` counts each target's loss. validation: what is held out, and how often it is
    asked. followed: another job of the stage comes after this one, which must not have to be done again.
    """

    name: str
    model: nn.Module
    groups: list[dict[str, Any]]
    forward: Callable[[nn.Module, Batch, Tensor | float], Tensor]
    packs: Sequence[Any]
    settings: Train
    work: Work
    checkpoints: Path
    seed: int
    engine: Engine
    flops: list[np.ndarray[Any, Any]] = field(default_factory=list)
    peak_flops: float = 0.0
    learn: Callable[[nn.Module, Any, bool], Tensor] | None = None
    max_dropped: float = 0.01
    worst: tuple[int, int] | None = None
    tally: Tally | None = None
    validation: Validation | None = None
    best: Best | None = None
    spikes: Spikes = field(default_factory=Spikes)
    betas: tuple[float, float] = (0.9, 0.999)
    whole: Sequence[nn.Module] = ()  # modules that every rank holds whole: frozen encoders
    followed: bool = False
    logged_before: int = 0  # steps of an earlier job that this one's continue in the journal
    spending: Spending | None = None  # since it goes on
    finished_at: int = 0  # the step that somebody wished to be the last

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return sum(len(packs.plan) for packs in self.packs)

    @property
    def samples(self) -> int:
        """Samples of the whole run, as they are planned."""
        return sum(len(packs.plan.samples) for packs in self.packs)


def learning_rate(step: int, steps: int, warmup_ratio: float) -> float:
    """The share of the peak rate at `step` (from 0): linear warm-up, then half a cosine to 0, as the original's."""
    warmup = math.ceil(steps * warmup_ratio)
    if step < warmup:
        return step / max(1, warmup)
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(job: Job) -> None:
    """Run the job to its end, from the newest whole checkpoint if there is one."""
    engine, settings = job.engine, job.settings
    for group in job.groups:
        group["peak"] = group["lr"]
    learning = Learning(job.groups, settings.weight_decay, job.betas, job.whole)
    model, optimizer = engine.prepare(job.model, learning)
    with _saver(job, model, optimizer) as saver:
        start, about = saver.resume(other_checkpoint(job.name))
        if start:
            came = f", from {saver.went_on_from}, of another run" if saver.went_on_from else ""
            engine.say(f"{job.name}: goes on after step {start:,} of {job.steps:,}{came}")
        if saver.went_on_from:
            log_tags(went_on_from=f"{saver.went_on_from} of another run")
        job.spending = open_spending(job.work, engine.ranks, float(about.get("hours", 0.0)))
        model.train()
        if start < job.steps:
            try_worst_pack(job, model, optimizer)
        with between_steps() as asked:
            wishes = Wishes(engine.rank, job.work.checkpoint_minutes, asked, job.spending, saver.is_free)
            dropped = int(about.get("dropped", 0))
            done, decision = _learn_all(job, model, optimizer, start, dropped, wishes, saver)
            end_early(job, decision, start, done, asked)
            _take_best(job, done)


def _learn_all(
    job: Job, model: nn.Module, optimizer: Any, start: int, dropped: int, wishes: Wishes, saver: Saver
) -> tuple[int, Decision]:
    """The steps from `start` to the last, or to that after which all ranks decide to end; the steps done, and why."""
    engine, settings, done = job.engine, job.settings, start
    bar = Progress(job.name, job.steps, start, engine.first)
    teller, coming = Teller(job, bar, dropped), _steps(job, start, wishes)
    log_tags(steps=str(job.logged_before + job.steps))
    taken = next(coming, None)
    # Before any step: what a checkpoint has learned may be all that is wished for.
    decision = decide(taken.wishes if taken else None, learned=start > 0)
    wishes.begin()
    teller.begin()
    while taken is not None and not decision.ends:
        now, step = taken, taken.number
        at_step(step + 1)
        factor = learning_rate(step, job.steps, settings.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        torch.manual_seed(_seed(job.seed, step, engine.rank))
        figures = _learn(job, model, taken, settings.learning_rate * factor)
        # While the device works: the next step's batches, and what they hold on all ranks.
        taken = next(coming, None)
        figures.waited = taken.waited if taken else 0.0
        with during(_exchange(engine)):
            teller.add(figures)
        # A device that is still at this step is not waited for: the step's own wishes are there.
        asked_at = taken if engine.device.type == "cpu" else now
        done, decision = step + 1, decide(asked_at.wishes if asked_at else None)
        _between(job, model, done, teller, decision, saver)
        if decision.save:
            wishes.begin()
    bar.close()
    if teller.dropped:
        print(f"{job.name}: {teller.dropped} records left out, their media did not decode", flush=True)
    return done, decision


def _between(job: Job, model: nn.Module, done: int, teller: Teller, decision: Decision, saver: Saver) -> None:
    """What is due after `done` steps; what they did is told first, so that nothing is kept of a loss that is none."""
    validation = job.validation if job.validation and done in job.validation.steps(job.steps) else None
    if decision.finish and job.validation:
        validation = job.validation
    awaited = done == job.steps and (job.followed or sealed_later())
    saved = decision.save or decision.ends or awaited
    saver.check()
    if not (validation or saved):
        return
    teller.tell()
    if validation:
        figures = _ask(job, model, validation)
        log_metrics(job.logged_before + done, **figures)
        shown = validation.shown.items()
        teller.bar.held_out = {called: figures[name] for name, called in shown if name in figures}
        if job.best and "held_out_loss" in figures:
            job.best.see(done, figures["held_out_loss"])
    if saved:
        hours = job.spending.hours if job.spending else 0.0
        told = {"dropped": teller.dropped, "hours": hours} | (job.best.about() if job.best else {})
        saver.save(done, told, wait=decision.ends)
    teller.begin()


def _ask(job: Job, model: nn.Module, validation: Validation) -> dict[str, float]:
    with during(COMPUTING):
        if validation.questions:
            return {key: value for one in validation.questions for key, value in one.ask(model).items()}
        return {"held_out_loss": held_out_loss(validation, model, job.forward, job.engine)}


def _take_best(job: Job, done: int) -> None:
    """Go back to the weights of the lowest held-out loss, where the recipe wants those."""
    if job.best is None or not job.best.step:
        return
    log_tags(best_step=str(job.best.step), best_held_out_loss=f"{job.best.loss:.6g}")
    if job.best.step != done:
        job.engine.say(
            f"{job.name}: ends with the weights of step {job.best.step:,} of {done:,}, whose held-out loss was lowest "
            f"({job.best.loss:.4g})"
        )
        job.best.put_back()


@dataclass
class _Taken:
    """A step's batches on this rank, and what those of all ranks hold (`Figures.counts`)."""

    number: int
    batches: list[Batch]
    counts: Tensor
    wishes: Late
    waited: float


def _steps(job: Job, start: int, wishes: Wishes) -> Iterator[_Taken]:
    """The steps from `start` on; skipped samples are never read."""
    rank, workers = job.engine.rank, job.work.loaders
    first = 0
    for packs in job.packs:
        plan, begin = packs.plan, max(0, start - first)
        rows = [plan.packs_of(step, rank) for step in range(begin, len(plan))]
        loader = load_batches(packs, list(itertools.chain(*rows)), workers, job.engine.device.type == "cuda")
        stream = iter(loader) if rows else iter(())
        for step, row in zip(range(begin, len(plan)), rows, strict=True):
            yield _take(job, first + step, itertools.islice(stream, len(row)), wishes)
        first += len(plan)


def _take(job: Job, number: int, stream: Iterator[Batch], wishes: Wishes) -> _Taken:
    """The batches of a step, counted over all ranks: a record that is lost makes the step smaller. Wishes too."""
    began, device = time.perf_counter(), job.engine.device
    with during(DATA):
        batches = list(stream)
    waited = time.perf_counter() - began
    for reason in itertools.chain(*(batch.dropped for batch in batches)):
        print(f"left out: {reason}", flush=True)
    columns = [
        (batch.label_count, batch.input_ids.numel(), batch.sample_count, len(batch.dropped))
        for batch in batches
    ]
    counted = torch.tensor(columns).sum(0)
    here = torch.cat([counted, torch.tensor(wishes.columns())]).to(device, non_blocking=True)
    with during(_exchange(job.engine)):
        counts, wished = job.engine.sum(here).split([len(counted), COLUMNS])
    return _Taken(number, batches, counts, Late(wished), waited)


def _learn(job: Job, model: nn.Module, taken: _Taken, rate: float) -> Figures:
    """One optimiser step, asked of the device and not waited for."""
    engine, tally = job.engine, job.tally
    if tally:
        tally.clear()
    total = torch.zeros((), device=engine.device)
    # Gradients are averaged over ranks where they ought to be summed.
    share = taken.counts[0].clamp(min=1).float() / engine.ranks
    for batch in taken.batches:
        last = batch is taken.batches[-1]
        if job.learn:
            with during(COMPUTING):
                total += job.learn(model, batch, last)
            continue
        with engine.micro_step(last), during(COMPUTING):
            loss = job.forward(model, batch, share)
            total += loss.detach()
            with during(_exchange(engine) if last else COMPUTING):
                engine.backward(loss)
    with during(_exchange(engine)):
        norm = engine.step(job.settings.clip)
        sums = sum_over_ranks(engine, total, tally)
    kept = copy.copy(tally)  # it begins anew before this step is told
    return Figures(taken.number, rate, taken.counts, sums, norm, kept, engine.ranks)


def _exchange(engine: Engine) -> str:
    """What a rank is at where ranks exchange something, or, on a GPU, the host waits for what they exchange."""
    return OTHERS if engine.ranks > 1 else COMPUTING


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint32)[0])


def _saver(job: Job, model: Any, optimizer: Any) -> Saver:
    together, work = Together(), job.work
    kept = (
        DeepSpeedState(model, work.strategy, together)
        if work.strategy.startswith("zero")
        else TorchState(job.model, optimizer, together, job.best)
    )
    return Saver(
        job.name,
        open_place(job.checkpoints, work.checkpoint_place, together),
        kept,
        {
            "stage": job.name,
            "steps": job.steps,
            "samples": job.samples,
            "batch_size": job.settings.batch_size,
            "seed": job.seed,
        },
        patience=60 * work.slow_minutes,
        logged_before=job.logged_before,
    )
