"""What a training step tells: counts over ranks, the figures that are logged, whose records it was.

In: the job, a step's loss and what its batches held. Out: the metrics of the step; an InputError that names records
and remedy where training can't go on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from videollava.errors import InputError

if TYPE_CHECKING:
    from videollava.train.loop import Job

__all__ = ["Seen", "bound_dropped", "measure", "over_ranks", "records_of"]

NAMED = 8  # records in an error


@dataclass
class Seen:
    """What a step's batches held, over all ranks at the end, and the seconds this rank waited for them."""

    tokens: int = 0
    samples: int = 0
    dropped: int = 0
    waited: float = 0.0
    gradient_norm: float = math.nan  # before it is cut; nan where the engine does not tell


def over_ranks(accelerator: Any, total: Tensor, seen: Seen) -> float:
    """The mean of `total`; what was seen becomes the sum over ranks."""
    counts = [float(total), seen.tokens, seen.samples, seen.dropped]
    sums = accelerator.reduce(torch.tensor(counts, dtype=torch.float64, device=accelerator.device), "sum")
    loss, tokens, samples, dropped = sums.tolist()
    seen.tokens, seen.samples, seen.dropped = int(tokens), int(samples), int(dropped)
    return float(loss / accelerator.num_processes)


def measure(job: Job, step: int, loss: float, seen: Seen, seconds: float, rate: float) -> dict[str, float]:
    """The metrics of a step (from 0) that took `seconds`; InputError where its loss is no number."""
    if not math.isfinite(loss):
        # A part of alignment is a job, and no section of params.yaml.
        section, _, part = job.name.partition("-")
        rate_key = f"{section}.video_learning_rate" if part == "video" else f"{section}.learning_rate"
        other = "" if job.settings.precision == "fp32" else f" or set {section}.precision: fp32"
        raise InputError(
            f"{job.name}: the loss of step {step + 1} is {loss} (this rank's records: {records_of(job, step)}); "
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


def records_of(job: Job, step: int) -> str:
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


def bound_dropped(job: Job, dropped: int, steps: int) -> None:
    """InputError where more records were left out in the first `steps` steps than prepare lets pass."""
    seen = sum(packs.plan.samples_of(s) for packs in job.packs for s in range(min(steps, len(packs.plan))))
    if dropped > max(10, job.max_dropped * seen):
        raise InputError(
            f"{job.name}: {dropped} of about {seen} records had media that did not decode, more than "
            f"prepare.max_quarantined ({job.max_dropped:.1%}); the shards in data/prepared are damaged: "
            "run prepare again"
        )
