"""The training loop of both stages and of the tiny language model: packs in, a learned model out.

In: a model, its parameter groups, one Plan an epoch, the packs, a checkpoint folder. Out: the model, changed, and the
journal's metrics. One optimiser step is the micro-steps (packs) the plan gives this rank; the loss is the sum over
the step's target tokens of all ranks divided by their number, so ranks, packs and micro-steps do not show in it.
Every step seeds torch by (seed, step, rank): a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

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

from videollava.data.batches import Batch, load_batches
from videollava.errors import InputError
from videollava.params import Train
from videollava.tracking import log_metrics
from videollava.train.accelerate import exchanging
from videollava.train.progress import Progress
from videollava.train.state import Checkpoint, clear_aside, find_checkpoint, has_room, seal, write_checkpoint
from videollava.train.trial import try_worst_pack
from videollava.train.zero import learned_bytes, load_shards, save_shards

__all__ = ["Job", "learning_rate", "train"]

NAMED = 8  # records in an error


@dataclass
class Job:
    """What one training run is made of.

    groups: parameter groups for AdamW, each with its peak `lr`; betas: AdamW's. forward: (model, batch, targets of the
    step) -> loss, the sum over the batch's targets divided by that number. packs: one dataset an epoch, its plan
    inside. flops: of each epoch's steps, this rank's share, for MFU (empty: not logged). worst: epoch and number of
    the pack that needs most memory; it is tried before the first step.
    """

    name: str
    model: nn.Module
    groups: list[dict[str, Any]]
    forward: Callable[[nn.Module, Batch, Tensor | float], Tensor]
    packs: Sequence[Any]
    settings: Train
    checkpoints: Path
    seed: int
    accelerator: Any
    flops: list[np.ndarray[Any, Any]] = field(default_factory=list)
    peak_flops: float = 0.0
    max_dropped: float = 0.01
    worst: tuple[int, int] | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    logged_before: int = 0  # steps of an earlier job that this one's continue in the journal

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return sum(len(packs.plan) for packs in self.packs)


def learning_rate(step: int, steps: int, warmup_ratio: float) -> float:
    """The share of the peak rate at `step` (from 0): linear warm-up, then half a cosine to 0, as the original's."""
    warmup = math.ceil(steps * warmup_ratio)
    if step < warmup:
        return step / max(1, warmup)
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(job: Job) -> None:
    """Run the job to its end, from the newest whole checkpoint if there is one."""
    accelerator, settings = job.accelerator, job.settings
    optimizer = torch.optim.AdamW(
        job.groups,
        weight_decay=settings.weight_decay,
        betas=job.betas,
        fused=True,  # the default makes copies of all weights at once on CUDA, and many small calls on a CPU
    )
    for group in optimizer.param_groups:
        group["peak"] = group["lr"]
    model, optimizer = accelerator.prepare(job.model, optimizer)
    start, dropped = _resume(job, model, optimizer)
    model.train()
    if start < job.steps:
        try_worst_pack(job, model, optimizer)
    bar = Progress(job.name, job.steps, start, accelerator.is_main_process)
    for step, targets, batches in _steps(job, start):
        began = time.perf_counter()
        factor = learning_rate(step, job.steps, settings.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        torch.manual_seed(_seed(job.seed, step, accelerator.process_index))
        loss, seen = _learn(job, model, optimizer, targets, batches)
        dropped += seen.dropped
        _bound_dropped(job, dropped, step + 1)
        values = _measure(job, step, loss, seen, time.perf_counter() - began, settings.learning_rate * factor)
        log_metrics(job.logged_before + step + 1, **values)
        bar.advance(step + 1, values)
        if (step + 1) % settings.checkpoint_steps == 0 or step + 1 == job.steps:
            _save(job, model, optimizer, step + 1, dropped)
    bar.close()
    if dropped:
        print(f"{job.name}: {dropped} records left out, their media did not decode", flush=True)


@dataclass
class _Seen:
    """What a step's batches held, over all ranks at the end, and the seconds this rank waited for them."""

    tokens: int = 0
    samples: int = 0
    dropped: int = 0
    waited: float = 0.0
    gradient_norm: float = math.nan  # before it is cut; nan where the engine does not tell


def _steps(job: Job, start: int) -> Iterator[tuple[int, int, Iterator[Batch]]]:
    """(step, target tokens of all ranks, this rank's batches) from `start` on; skipped samples are never read."""
    rank, workers = job.accelerator.process_index, job.settings.workers
    first = 0
    for packs in job.packs:
        plan, begin = packs.plan, max(0, start - first)
        rows = [plan.packs_of(step, rank) for step in range(begin, len(plan))]
        loader = load_batches(
            packs, list(itertools.chain(*rows)), workers, job.accelerator.device.type == "cuda"
        )
        stream = iter(loader) if rows else iter(())
        for step, row in zip(range(begin, len(plan)), rows, strict=True):
            yield first + step, int(plan.targets[step]), itertools.islice(stream, len(row))
        first += len(plan)


def _learn(
    job: Job, model: nn.Module, optimizer: Any, targets: int, batches: Iterator[Batch]
) -> tuple[float, _Seen]:
    """One optimiser step; the loss over all ranks."""
    accelerator, seen = job.accelerator, _Seen()
    total = torch.zeros((), device=accelerator.device)
    # Gradients are averaged over ranks where they ought to be summed.
    share = max(1, targets) / accelerator.num_processes
    following = _next(batches, seen)
    while following is not None:
        batch, following = following, _next(batches, seen)
        last = following is None
        with exchanging(accelerator, model, last):
            loss = job.forward(model, batch, share)
            total += loss.detach()
            accelerator.backward(loss)
    learned = [p for group in optimizer.param_groups for p in group["params"]]
    # Where nothing is to be cut, the norm is measured all the same.
    norm = accelerator.clip_grad_norm_(learned, job.settings.clip or math.inf)
    seen.gradient_norm = math.nan if norm is None else float(norm)
    optimizer.step()
    optimizer.zero_grad()
    return _over_ranks(accelerator, total, seen), seen


def _over_ranks(accelerator: Any, total: Tensor, seen: _Seen) -> float:
    """The mean of `total`; what was seen becomes the sum over ranks."""
    counts = [float(total), seen.tokens, seen.samples, seen.dropped]
    sums = accelerator.reduce(torch.tensor(counts, dtype=torch.float64, device=accelerator.device), "sum")
    loss, tokens, samples, dropped = sums.tolist()
    seen.tokens, seen.samples, seen.dropped = int(tokens), int(samples), int(dropped)
    return float(loss / accelerator.num_processes)


def _next(batches: Iterator[Batch], seen: _Seen) -> Batch | None:
    began = time.perf_counter()
    batch = next(batches, None)
    seen.waited += time.perf_counter() - began
    if batch is not None:
        seen.tokens += int(batch.input_ids.numel())
        seen.samples += len(batch.lengths)
        seen.dropped += len(batch.dropped)
        for reason in batch.dropped:
            print(f"left out: {reason}", flush=True)
    return batch


def _measure(job: Job, step: int, loss: float, seen: _Seen, seconds: float, rate: float) -> dict[str, float]:
    if not math.isfinite(loss):
        # A part of alignment is a job, and no section of params.yaml.
        section, _, part = job.name.partition("-")
        rate_key = f"{section}.video_learning_rate" if part == "video" else f"{section}.learning_rate"
        other = "" if job.settings.precision == "fp32" else f" or set {section}.precision: fp32"
        raise InputError(
            f"{job.name}: the loss of step {step + 1} is {loss} (this rank's records: {_records_of(job, step)}); "
            f"look at these records, lower {rate_key} (now {job.settings.learning_rate}){other}; "
            "the checkpoint before this step stays"
        )
    values = {
        "loss": loss,
        "learning_rate": rate,
        "tokens_per_second": seen.tokens / seconds,
        "samples_per_second": seen.samples / seconds,
        "data_wait_share": min(1.0, seen.waited / seconds),
    }
    if math.isfinite(seen.gradient_norm):
        values["gradient_norm"] = seen.gradient_norm
    if job.flops and job.peak_flops:
        values["mfu"] = _flops_of(job, step) / seconds / job.peak_flops
    if job.accelerator.device.type == "cuda":
        values["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return values


def _records_of(job: Job, step: int) -> str:
    """The first few records that this rank learned from in a step, and how many there were."""
    for packs in job.packs:
        if step >= len(packs.plan):
            step -= len(packs.plan)
            continue
        numbers = packs.plan.packs_of(step, job.accelerator.process_index)
        rows = [row for number in numbers for row in packs.plan.pack(number).tolist()]
        table, behind = getattr(packs, "records", None), getattr(packs, "rows", None)
        if behind is not None:  # pairs of one kind of medium are numbered by themselves
            rows = [behind[row] for row in rows]
        names = [str(row if table is None else table["id"][row].as_py()) for row in rows[:NAMED]]
        return ", ".join(names) + (f" and {len(rows) - NAMED} more" if len(rows) > NAMED else "")
    return "none"


def _flops_of(job: Job, step: int) -> float:
    for flops in job.flops:
        if step < len(flops):
            return float(flops[step])
        step -= len(flops)
    return 0.0


def _bound_dropped(job: Job, dropped: int, steps: int) -> None:
    seen = sum(packs.plan.samples_of(s) for packs in job.packs for s in range(min(steps, len(packs.plan))))
    if dropped > max(10, job.max_dropped * seen):
        raise InputError(
            f"{job.name}: {dropped} of about {seen} records had media that did not decode, more than "
            f"prepare.max_quarantined ({job.max_dropped:.1%}); the shards in data/prepared are damaged: "
            "run prepare again"
        )


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint32)[0])


def _about(job: Job) -> dict[str, Any]:
    return {
        "stage": job.name,
        "ranks": job.accelerator.num_processes,
        "steps": job.steps,
        "deepspeed": job.settings.deepspeed,
    }


def _save(job: Job, model: nn.Module, optimizer: Any, step: int, dropped: int) -> None:
    about = _about(job) | {"dropped": dropped}
    if job.settings.deepspeed != "none":
        _save_sharded(job, model, step, about)
        return
    if not job.accelerator.is_main_process:
        job.accelerator.wait_for_everyone()
        return

    def fill(folder: Path) -> None:
        learned = {n: p.detach().cpu() for n, p in job.model.named_parameters() if p.requires_grad}
        torch.save({"model": learned, "optimizer": optimizer.state_dict()}, folder / "state.pt")

    write_checkpoint(job.checkpoints, step, about, fill)
    job.accelerator.wait_for_everyone()


def _save_sharded(job: Job, model: Any, step: int, about: dict[str, Any]) -> None:
    """Every rank writes its part; rank 0 seals the whole."""
    from accelerate.utils import broadcast_object_list

    accelerator, room = job.accelerator, [False]
    if accelerator.is_main_process:
        clear_aside(job.checkpoints, step)
        room = [has_room(job.checkpoints, learned_bytes(model))]
    # Decided once: a rank that fails alone would leave the others waiting.
    if not broadcast_object_list(room)[0]:
        accelerator.print(f"checkpoint of step {step} not written (disk full): the one before it stays")
        return
    save_shards(model, job.checkpoints / f"step-{step:08d}.tmp")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        seal(job.checkpoints, step, about)
    accelerator.wait_for_everyone()


def _resume(job: Job, model: Any, optimizer: Any) -> tuple[int, int]:
    """Load the newest whole checkpoint; (steps done, records left out so far)."""
    from accelerate.utils import broadcast_object_list

    # Rank 0 reads and verifies; the others believe it.
    (found,) = broadcast_object_list(
        [find_checkpoint(job.checkpoints) if job.accelerator.is_main_process else None]
    )
    if found is None:
        return 0, 0
    _check_same_run(job, found)
    if job.settings.deepspeed != "none":
        load_shards(model, found.folder)
    else:
        state = torch.load(found.folder / "state.pt", map_location="cpu", weights_only=True)
        missing = job.model.load_state_dict(state["model"], strict=False).unexpected_keys
        if missing:
            raise InputError(f"{found.folder}: parameters the model does not have: {', '.join(missing[:3])}")
        optimizer.load_state_dict(state["optimizer"])
    job.accelerator.print(
        f"{job.name}: goes on after step {found.step} of {job.steps} ({found.folder.name})", flush=True
    )
    return found.step, int(found.about.get("dropped", 0))


def _check_same_run(job: Job, found: Checkpoint) -> None:
    for name, value in _about(job).items():
        if found.about.get(name) != value:
            raise InputError(
                f"{found.folder}: made with {name} = {found.about.get(name)!r}, this run has {value!r}; go on with the "
                f"same {name}, or remove {job.checkpoints} to start this stage anew"
            )
