"""What this machine can compute in: most CPUs emulate bfloat16, at half the speed of float32."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import torch

__all__ = ["Precision", "computes_bfloat16", "has_flag", "usable_precision"]

Precision = Literal["fp32", "bf16"]
CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})  # of x86, and of ARM


def usable_precision(wanted: Precision, device: torch.device | str = "cpu") -> Precision:
    """`wanted`, but fp32 for bf16 on a CPU that only emulates it; said once a process."""
    on_cpu = torch.device(device).type == "cpu" and not torch.cuda.is_available()
    if wanted != "bf16" or not on_cpu or computes_bfloat16():
        return wanted
    _say()
    return "fp32"


@cache
def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 (AVX512-BF16, AMX, ARM's BF16)."""
    try:
        return has_flag(Path("/proc/cpuinfo").read_text())
    except OSError:  # no Linux: emulated, as far as we know
        return False


def has_flag(cpuinfo: str) -> bool:
    """Whether /proc/cpuinfo names bfloat16 among a processor's flags (x86) or features (ARM)."""
    lines = (line for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")))
    return any(CPU_FLAGS & set(line.split()) for line in lines)


@cache
def _say() -> None:
    print("this CPU emulates bfloat16, at half the speed of float32: computing in float32", flush=True)
