"""The engine of a stage, by machine.yaml's strategy; and what its device can do."""

from __future__ import annotations

from datetime import timedelta

import torch

from videollava.machine import Work
from videollava.model.precision import usable_precision
from videollava.params import Train
from videollava.tracking import log_tags
from videollava.train.engine.types import Engine
from videollava.train.gpus import peak_of
from videollava.train.launch.meeting import open_meeting

__all__ = ["make_engine", "peak_flops", "usable"]


def make_engine(settings: Train, work: Work) -> Engine:
    """The engine of this process; the launcher's environment says which rank it is.

    An exchange may take twice stall_minutes: the launcher, which can name the rank that is waited for, has half of it.
    """
    patience, bf16 = timedelta(minutes=2 * work.stall_minutes), settings.precision == "bf16"
    made: Engine
    if work.strategy.startswith("zero"):
        from videollava.train.engine.deepspeed_engine import DeepSpeedEngine

        made = DeepSpeedEngine.start(work.strategy, bf16, settings.clip, patience)
    else:
        from videollava.train.engine.torch_engine import TorchEngine

        made = TorchEngine.start(work.strategy, bf16, patience)
    open_meeting()
    return made


def usable(settings: Train) -> Train:
    """The settings in a precision that this machine computes in; the journal keeps which it was."""
    precision = usable_precision(settings.precision)
    log_tags(precision=precision)
    return settings.replace(precision=precision)


def peak_flops(device: torch.device) -> float:
    """Dense bf16 peak of the device in FLOP/s; 0 where it is not known (then MFU is not logged)."""
    if device.type != "cuda":
        return 0.0
    return peak_of(torch.cuda.get_device_name(device))
