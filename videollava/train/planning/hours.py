"""How long a stage takes: computing, waiting for others and for what they send, checkpoints, validation, loading."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from videollava.machine import Work
from videollava.train.memory import Weights
from videollava.train.planning.hardware import Hardware
from videollava.train.planning.load import Laid, Load
from videollava.train.planning.traffic import Traffic

__all__ = ["CHECKPOINT_BYTES", "DISK", "LAUNCH", "Saving", "Spending", "saving_of", "spend"]

CHECKPOINT_BYTES = 12  # a learned weight and its two moments, in float32
DISK = 1e9  # bytes/s that a host reads and writes
START = 60.0  # seconds: imports, meeting, the first kernels
# Seconds a decoder layer keeps the host busy in a micro-step (some hundred kernels at 10 microseconds): a small model,
# or a pack of few tokens, is no quicker than that.
LAUNCH = 1.2e-3


@dataclass(frozen=True)
class Spending:
    """Seconds of the whole stage on the clock. computing: what is needed anyway; again: recomputed activations;
    launching: the host is slower than the GPU; slowest: waiting for the rank with most to do; sending: what is not
    hidden; then checkpoints, validation and loading.
    """

    computing: float
    again: float
    launching: float
    slowest: float
    sending: float
    checkpoints: float
    validation: float
    loading: float

    @property
    def steps(self) -> float:
        """The steps alone."""
        return self.computing + self.again + self.launching + self.slowest + self.sending

    @property
    def total(self) -> float:
        """All of it."""
        return self.steps + self.checkpoints + self.validation + self.loading

    @property
    def hours(self) -> float:
        """All of it, in hours."""
        return self.total / 3600

    def share(self, name: str) -> float:
        """A part's share of the whole."""
        return float(getattr(self, name)) / self.total if self.total else 0.0


@dataclass(frozen=True)
class Saving:
    """A checkpoint: bytes of the whole, seconds in which a step waits for it, seconds until it is written, and minutes
    between two (longer than asked where writing takes longer).
    """

    size: float
    stall: float
    written: float
    minutes: float


def spend(
    load: Load,
    laid: Laid,
    work: Work,
    weights: Weights,
    layers: int,
    hardware: Hardware,
    traffic: Traffic,
    saving: Saving,
    mfu: float,
    validations: int,
) -> Spending:
    """What the stage takes. Everything but loading is 0 where the device's peak is not known."""
    loading = START + 2 * (weights.learned + weights.frozen) / DISK
    nothing = Spending(0, 0, 0, 0, 0, 0, 0, loading)
    if not hardware.flops or not load.steps:
        return dataclasses.replace(nothing, loading=loading if load.steps else 0.0)
    rate = hardware.flops * mfu * hardware.gpus
    computing = load.flops / rate
    again = load.language * work.recomputed(layers) / layers / rate
    # With DeepSpeed and with shards every micro-step ends with an exchange.
    together = work.strategy == "replicated"
    slowest = (computing + again) * (1 / (laid.busy if together else laid.each) - 1)
    micro_steps = laid.micro_steps * load.steps
    launching = max(0.0, micro_steps * layers * LAUNCH - computing - again - slowest)
    each = (computing + again + slowest + launching) / micro_steps
    sending = traffic.waited(each, laid.micro_steps) * load.steps
    steps = computing + again + launching + slowest + sending
    return Spending(
        computing,
        again,
        launching,
        slowest,
        sending,
        checkpoints=saving.stall * (max(1.0, steps / 60 / saving.minutes) if saving.minutes else load.steps),
        validation=validations * load.held_out / rate,
        loading=loading,
    )


def saving_of(work: Work, weights: Weights, hardware: Hardware) -> Saving:
    """torch's are copied to main memory while a step waits, and written beside the next ones; DeepSpeed's are waited
    for. Every rank writes about as much, replicated or not.
    """
    size = float(CHECKPOINT_BYTES * weights.learned)
    written = size / hardware.nodes / DISK
    stall = written if work.strategy.startswith("zero") else size / hardware.gpus / hardware.host
    return Saving(size, stall, written, max(work.checkpoint_minutes, written / 60))
