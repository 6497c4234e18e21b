"""One `accelerate` set-up for every way to run: one device, DDP, DeepSpeed ZeRO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from videollava.errors import InputError
from videollava.params import Train
from videollava.train.cost import PEAK_TFLOPS

__all__ = ["make_accelerator", "peak_flops"]

CONFIGS = Path("infra/deepspeed")


def make_accelerator(settings: Train) -> Any:
    """The Accelerator of this process; the launcher's environment says which rank it is."""
    from accelerate import Accelerator

    precision = "bf16" if settings.precision == "bf16" else "no"
    plugin = _deepspeed(settings) if settings.deepspeed != "none" else None
    return Accelerator(
        mixed_precision=precision,
        deepspeed_plugin=plugin,
        cpu=not torch.cuda.is_available(),
        step_scheduler_with_optimizer=False,
    )


def peak_flops(device: torch.device) -> float:
    """Dense bf16 peak of the device in FLOP/s; 0 where it is not known (then MFU is not logged)."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for model, peak in PEAK_TFLOPS.items() if model in name), 0.0)


def _deepspeed(settings: Train) -> Any:
    try:
        import deepspeed
        from accelerate import DeepSpeedPlugin
    except ImportError as error:
        raise InputError(
            f"deepspeed: {settings.deepspeed} needs the deepspeed package: pip install 'videollava[deepspeed]'"
        ) from error
    if not torch.cuda.is_available():
        deepspeed.init_distributed(dist_backend="gloo")
    file = CONFIGS / f"{settings.deepspeed}.json"
    if not file.is_file():
        raise InputError(f"{file}: not found; run the stage in a checkout of the repository")
    config = json.loads(file.read_text())
    config["gradient_clipping"] = settings.clip
    config["bf16"] = {"enabled": settings.precision == "bf16"}
    return DeepSpeedPlugin(hf_ds_config=config)
