"""What this machine can compute in: on most CPUs bfloat16 takes about twice as long as float32."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import torch

__all__ = ["Precision", "bfloat16_pays", "pays_on", "usable_precision"]

Precision = Literal["fp32", "bf16"]
TILES = frozenset({"amx_bf16", "bf16", "svebf16"})  # AMX, and ARM's own
# AMD's AVX512-BF16 multiplies twice as many in a cycle as of float32. Intel's as many, and the matrices are laid out
# anew for it: a Xeon that offers no AMX (many virtual machines) reaches 0.56 of its float32 (bench/RESULTS.md).
VECTORS, SLOW_VECTORS = "avx512_bf16", "GenuineIntel"


def usable_precision(wanted: Precision, device: torch.device | str = "cpu") -> Precision:
    """`wanted`, but fp32 for bf16 on a CPU that is slower in it; said once a process."""
    on_cpu = torch.device(device).type == "cpu" and not torch.cuda.is_available()
    if wanted != "bf16" or not on_cpu or bfloat16_pays():
        return wanted
    _say()
    return "fp32"


@cache
def bfloat16_pays() -> bool:
    """Whether this CPU is quicker in bfloat16 than in float32 (AMX, AMD's AVX512-BF16, ARM's BF16)."""
    try:
        return pays_on(Path("/proc/cpuinfo").read_text())
    except OSError:  # no Linux: emulated, as far as we know
        return False


def pays_on(cpuinfo: str) -> bool:
    """The same by what /proc/cpuinfo says: flags and vendor (x86), or features (ARM)."""
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    flags = {word for key, _, said in lines if key.strip() in ("flags", "Features") for word in said.split()}
    makers = {said.strip() for key, _, said in lines if key.strip() == "vendor_id"}
    return bool(TILES & flags) or (VECTORS in flags and SLOW_VECTORS not in makers)


@cache
def _say() -> None:
    print("this CPU is slower in bfloat16 than in float32: computing in float32", flush=True)
