"""What hardware this host has, without a library that takes seconds to load where there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["count_cores", "count_gpus"]

DRIVERS = ("nvidia[0-9]*", "kfd", "dxg")  # in /dev: NVIDIA's cards, AMD's driver, those of Windows under WSL


def count_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """GPUs that torch sees in this process; 0 where no driver is there."""
    if environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    if not any(True for pattern in DRIVERS for _ in devices.glob(pattern)):
        return 0
    import torch

    return torch.cuda.device_count()


def count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
