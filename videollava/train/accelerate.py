"""One `accelerate` set-up for every way to run: one device, DDP, DeepSpeed ZeRO; one process, torchrun, deepspeed."""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from videollava.machine import Strategy, Work
from videollava.model.precision import usable_precision
from videollava.params import Train
from videollava.tracking import log_tags
from videollava.train.cost import PEAK_TFLOPS
from videollava.train.launch.meeting import open_meeting
from videollava.train.zero import deepspeed_plugin, load_models_whole

__all__ = ["exchanging", "make_accelerator", "peak_flops", "usable"]


def make_accelerator(settings: Train, work: Work) -> Any:
    """The Accelerator of this process; the launcher's environment says which rank it is."""
    made = _make(settings, work.strategy, timedelta(minutes=2 * work.stall_minutes))
    open_meeting()
    return made


def _make(settings: Train, strategy: Strategy, patience: timedelta) -> Any:
    """patience: of one exchange. The launcher, which can name the rank that is waited for, has half of it."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    precision = "bf16" if settings.precision == "bf16" else "no"
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault(
            "DS_ACCELERATOR", "cpu"
        )  # accelerate imports DeepSpeed, which would search and warn
    if strategy != "ddp":
        # `cpu=True` would make accelerate forget DeepSpeed: it finds the CPU by itself, but has to be told of gloo.
        group = InitProcessGroupKwargs(timeout=patience, **({"backend": "gloo"} if on_cpu else {}))
        made = Accelerator(
            mixed_precision=precision,
            deepspeed_plugin=deepspeed_plugin(settings, strategy),
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[group],
        )
        load_models_whole()
        return made
    # accelerate 1.15 still uses the name that torch 2.13 renamed.
    warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
    # Buffers are constants here, and gradients need no second copy to be sent from.
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(
        mixed_precision=precision,
        cpu=on_cpu,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[parallel, InitProcessGroupKwargs(timeout=patience)],
    )


def usable(settings: Train) -> Train:
    """The settings in a precision that this machine computes in; the journal keeps which it was."""
    precision = usable_precision(settings.precision)
    log_tags(precision=precision)
    return settings.replace(precision=precision)


def exchanging(accelerator: Any, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """The context of one micro-step: ranks exchange gradients, and DeepSpeed steps, at the `last` one only."""
    # DeepSpeed steps inside `accelerator.backward`, which goes by this flag.
    accelerator.gradient_state._set_sync_gradients(last)
    context: AbstractContextManager[Any] = nullcontext() if last else accelerator.no_sync(model)
    return context


def peak_flops(device: torch.device) -> float:
    """Dense bf16 peak of the device in FLOP/s; 0 where it is not known (then MFU is not logged)."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for model, peak in PEAK_TFLOPS.items() if model in name), 0.0)
