"""What a training step tells: counts over ranks, the figures that are logged, whose records it was.

In: the job, a step's loss and what its batches held. Out: the metrics of the step; an InputError that names records
and remedy where training can't go on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videollava.data.batches import KINDS
from videollava.errors import InputError
from videollava.tracking import log_metrics, log_tags
from videollava.train.tally import Tally

if TYPE_CHECKING:
    from videollava.train.loop import Job

__all__ = ["Seen", "bound_dropped", "measure", "notice_spike", "over_ranks", "records_of"]

NAMED = 8  # records in an error


@dataclass
class Seen:
    """What a step's batches held, over all ranks at the end, and the seconds this rank waited for them."""

    tokens: int = 0
    samples: int = 0
    dropped: int = 0
    waited: float = 0.0
    gradient_norm: float = math.nan  # before it is cut; nan where the engine does not tell
    by_kind: dict[str, float] = field(default_factory=dict)  # mean loss of the targets of each kind of sample


def over_ranks(accelerator: Any, total: Tensor, seen: Seen, tally: Tally | None = None) -> float:
    """The mean of `total`; what was seen becomes the sum over ranks. All in one exchange, that waits for the device."""
    counts = [seen.tokens, seen.samples, seen.dropped, *(tally.labels if tally else ())]
    known = torch.tensor(counts, dtype=torch.float64).to(accelerator.device, non_blocking=True)
    lost = [total[None].double(), *([tally.sums.double()] if tally else [])]
    sums = accelerator.reduce(torch.cat([known, *lost]), "sum").tolist()
    seen.tokens, seen.samples, seen.dropped = (int(count) for count in sums[:3])
    labels, kinds = sums[3 : len(counts)], sums[len(counts) + 1 :]
    if tally:
        means = zip(KINDS, kinds, labels, strict=True)
        seen.by_kind = {f"loss_{kind}": lost / count for kind, lost, count in means if count}
    return float(sums[len(counts)] / accelerator.num_processes)


def measure(job: Job, step: int, loss: float, seen: Seen, seconds: float, rate: float) -> dict[str, float]:
    """The metrics of a step (from 0) that took `seconds`; InputError where its loss is no number."""
    if not math.isfinite(loss):
        raise InputError(
            f"{job.name}: the loss of step {step + 1} is {loss} ({_blamed(job, step, loss)}); "
            f"{_remedy(job)}; the checkpoint before this step stays"
        )
    values = {
        "loss": loss,
        **seen.by_kind,
        "learning_rate": rate,
        "tokens_per_second": seen.tokens / seconds,
        "samples_per_second": seen.samples / seconds,
        "data_wait_share": min(1.0, seen.waited / seconds),
        "step_seconds": seconds,
    }
    if math.isfinite(seen.gradient_norm):
        values["gradient_norm"] = seen.gradient_norm
    if job.flops:
        rates = _flops_of(job, step) / seconds
        if job.peak_flops:
            values["mfu"], values["mfu_palm"] = (rates / job.peak_flops).tolist()
        else:
            values["flops_per_second"] = float(rates[0]) * job.accelerator.num_processes
    if job.accelerator.device.type == "cuda":
        values["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return values


def notice_spike(job: Job, step: int, loss: float) -> None:
    """Say and note a loss that jumps: the step (from 0), whose records, what to do. Training goes on."""
    usual = job.spikes.above(loss)
    if usual is None:
        return
    rank = job.accelerator.process_index
    # Others speak up where a record of theirs did it; `loss` is the same number on every rank.
    if rank and not (job.tally and any(value >= loss for _, value in job.tally.worst()[:1])):
        return
    said = f"{_blamed(job, step, loss)}; training goes on; if it stays up or comes often, {_remedy(job)}"
    print(
        f"{job.name}: the loss of step {step + 1} jumps from {usual:.3g} to {loss:.3g} ({said})", flush=True
    )
    number = job.logged_before + step + 1
    log_metrics(number, loss_spike=loss / usual)
    log_tags(**{f"spike.{number}": f"{loss:.4g}, before {usual:.4g}; {_blamed(job, step, loss)}"})


def _remedy(job: Job) -> str:
    # A part of alignment is a job, and no section of params.yaml.
    section, _, part = job.name.partition("-")
    rate_key = f"{section}.video_learning_rate" if part == "video" else f"{section}.learning_rate"
    other = "" if job.settings.precision == "fp32" else f" or set {section}.precision: fp32"
    return f"look at these records, lower {rate_key} (now {job.settings.learning_rate}){other}"


def _blamed(job: Job, step: int, loss: float) -> str:
    """This rank's records with the highest loss, where it is known of each; else those of the step."""
    worst = job.tally.worst() if job.tally else []
    if not worst:
        return f"this rank's records: {records_of(job, step)}"
    if not math.isfinite(loss) and math.isfinite(worst[0][1]):
        return (
            f"no record of this rank has such a loss by itself; this rank's records: {records_of(job, step)}"
        )
    ids = job.packs[0].records["id"]
    bad = [one for one in worst if not math.isfinite(one[1])] or worst
    shown = ", ".join(f"{ids[row].as_py()} {value:.3g}" for row, value in bad[:NAMED])
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"the highest of this rank's {len(worst)} records: {shown}{more}"


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


def _flops_of(job: Job, step: int) -> NDArray[np.float64]:
    for flops in job.flops:
        if step < len(flops):
            found: NDArray[np.float64] = flops[step]
            return found
        step -= len(flops)
    return np.zeros(2)


def bound_dropped(job: Job, dropped: int, steps: int) -> None:
    """InputError where more records were left out in the first `steps` steps than prepare lets pass."""
    if dropped <= 10:
        return
    seen = sum(packs.plan.samples_of(s) for packs in job.packs for s in range(min(steps, len(packs.plan))))
    if dropped > job.max_dropped * seen:
        raise InputError(
            f"{job.name}: {dropped} of about {seen} records had media that did not decode, more than "
            f"prepare.max_quarantined ({job.max_dropped:.1%}); the shards in data/prepared are damaged: "
            "run prepare again"
        )
