"""What a training step tells: counts over ranks, the figures that are logged, whose records it was.

In: the job, a step's loss and what its batches held. Out: the metrics of the step; an InputError that names records
and remedy where training can't go on.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videollava.alarms import alarm
from videollava.data.load.batches import KINDS
from videollava.errors import InputError
from videollava.tracking import log_metrics, log_tags
from videollava.train.engine import Engine
from videollava.train.launch.paces import paces_of
from videollava.train.progress import Progress
from videollava.train.tally import Tally

if TYPE_CHECKING:
    from videollava.train.loop import Job

__all__ = ["Figures", "Teller", "keys_of", "peak_memory", "records_of", "sum_over_ranks"]

NAMED = 8  # records in an error


@dataclass
class Seen:
    """What a step's batches held, over all ranks, and the seconds this rank waited for the next ones."""

    tokens: int = 0
    samples: int = 0
    dropped: int = 0
    waited: float = 0.0
    gradient_norm: float = math.nan  # before it is cut; nan where the engine does not tell
    by_kind: dict[str, float] = field(default_factory=dict)  # mean loss of the targets of each kind of sample


@dataclass
class Figures:
    """What a step did, left on the device until somebody reads it: reading waits for the step.

    counts: (4,) labels, tokens, samples and lost records; sums: the loss, and of each kind of sample the loss and
    labels of its targets; both over all ranks. norm: None where the engine does not tell.
    """

    step: int
    rate: float
    counts: Tensor
    sums: Tensor
    norm: Tensor | float | None
    tally: Tally | None
    ranks: int
    waited: float = 0.0

    def read(self) -> tuple[float, Seen]:
        """The loss, and the rest."""
        _, tokens, samples, dropped = self.counts.tolist()
        loss, *kinds = self.sums.tolist()
        half = len(kinds) // 2
        means = zip(KINDS, kinds[:half], kinds[half:], strict=True) if kinds else ()
        by_kind = {f"loss_{kind}": lost / count for kind, lost, count in means if count}
        norm = math.nan if self.norm is None else float(self.norm)
        return loss / self.ranks, Seen(tokens, samples, dropped, self.waited, norm, by_kind)


def sum_over_ranks(engine: Engine, total: Tensor, tally: Tally | None) -> Tensor:
    """`Figures.sums`, in one exchange that nobody waits for."""
    parts = [total[None].double()]
    if tally:
        labels = torch.tensor(tally.labels, dtype=torch.float64).to(engine.device, non_blocking=True)
        parts += [tally.sums.double(), labels]
    summed: Tensor = engine.sum(torch.cat(parts))
    return summed


class Teller:
    """Logs what steps did; where the device works by itself, each a step late, so that it never waits for the host.

    dropped: records left out so far.
    """

    def __init__(self, job: Job, bar: Progress, dropped: int) -> None:
        self.job, self.bar, self.dropped = job, bar, dropped
        self._waiting: list[Figures] = []
        self._paces = paces_of()
        self.begin()

    def begin(self) -> None:
        """Start the clock of the next step: what came between (a checkpoint, a validation) is no part of it."""
        self._began = time.perf_counter()

    def add(self, figures: Figures) -> None:
        """Take a step that has been asked for, and tell the one before."""
        self._waiting.append(figures)
        self.tell(all_of_them=self.job.engine.device.type == "cpu")

    def tell(self, all_of_them: bool = True) -> None:
        """Log what has not been logged. InputError where a loss is no number, or too many records are lost."""
        while len(self._waiting) > (0 if all_of_them else 1):
            figures = self._waiting.pop(0)
            loss, seen = figures.read()
            now = time.perf_counter()
            self._log(figures, loss, seen, now - self._began)
            self._began = now

    def _log(self, figures: Figures, loss: float, seen: Seen, seconds: float) -> None:
        job, step = self.job, figures.step
        self.dropped += seen.dropped
        bound_dropped(job, self.dropped, step + 1)
        values = measure(job, step, loss, seen, seconds, figures.rate, figures.tally)
        values |= self._paces.look() if self._paces else {}
        log_metrics(job.logged_before + step + 1, **values)
        notice_spike(job, step, loss, figures.tally)
        self.bar.advance(step + 1, values)


def measure(
    job: Job, step: int, loss: float, seen: Seen, seconds: float, rate: float, tally: Tally | None
) -> dict[str, float]:
    """The metrics of a step (from 0) that took `seconds`; InputError where its loss is no number."""
    if not math.isfinite(loss):
        raise InputError(
            f"{job.name}: the loss of step {step + 1} is {loss} ({_blamed(job, step, loss, tally)}); "
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
            values["flops_per_second"] = float(rates[0]) * job.engine.ranks
    values["peak_memory_gib"] = peak_memory(job.engine.device)
    return values


def peak_memory(device: torch.device) -> float:
    """GiB that this process has needed at most: of its GPU, or of main memory where it has none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 2**30


def notice_spike(job: Job, step: int, loss: float, tally: Tally | None) -> None:
    """Say and note a loss that jumps: the step (from 0), whose records, what to do. Training goes on."""
    usual = job.spikes.above(loss)
    if usual is None:
        return
    rank = job.engine.rank
    # Others speak up where a record of theirs did it; `loss` is the same number on every rank.
    if rank and not (tally and any(value >= loss for _, value in tally.worst()[:1])):
        return
    said = (
        f"{_blamed(job, step, loss, tally)}; training goes on; if it stays up or comes often, {_remedy(job)}"
    )
    told = f"the loss of step {step + 1} jumps from {usual:.3g} to {loss:.3g} ({said})"
    print(f"{job.name}: {told}", flush=True)
    alarm(told)
    number = job.logged_before + step + 1
    log_metrics(number, loss_spike=loss / usual)
    log_tags(**{f"spike.{number}": f"{loss:.4g}, before {usual:.4g}; {_blamed(job, step, loss, tally)}"})


def keys_of(job: str) -> tuple[str, str]:
    """What params.yaml calls the epochs and the learning rate of a job, which may be a part of alignment."""
    section, _, part = job.partition("-")
    if part in ("", "text", "image", "video"):
        epochs = f"{part}_epochs" if part else "epochs"
        return f"{section}.{epochs}", f"{section}.{'video_' if part == 'video' else ''}learning_rate"
    return f"{section}.towers.{part}.epochs", f"{section}.towers.{part}.learning_rate"


def _remedy(job: Job) -> str:
    # A part of alignment is a job, and no section of params.yaml.
    section, rate_key = job.name.partition("-")[0], keys_of(job.name)[1]
    other = "" if job.settings.precision == "fp32" else f" or set {section}.precision: fp32"
    return f"look at these records, lower {rate_key} (now {job.settings.learning_rate}){other}"


def _blamed(job: Job, step: int, loss: float, tally: Tally | None) -> str:
    """This rank's records with the highest loss, where it is known of each; else those of the step."""
    worst = tally.worst() if tally else []
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
        numbers = packs.plan.packs_of(step, job.engine.rank)
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
            f"shards.max_quarantined ({job.max_dropped:.1%}); the shards in data/index are damaged: "
            "run `videollava shards` and `videollava index` again"
        )
