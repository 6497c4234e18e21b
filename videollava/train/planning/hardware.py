"""Which devices a plan is for: how many of which kind, and how fast they compute and exchange."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from videollava.errors import InputError
from videollava.train.gpus import GIB, GPUS, Gpu, find_gpu

__all__ = ["MOST_GPUS", "PER_NODE", "Hardware", "hardware_of"]

MOST_GPUS = 1_000_000
PER_NODE = 8
# Shares of a link that NCCL's ring reaches: some 360 of 450 GB/s on eight H100, 235 of 300 on A100 (nccl-tests'
# bus bandwidth); over PCIe, where every byte passes the root, half.
REACHED, REACHED_PCIE = 0.8, 0.5
UNKNOWN = Gpu(0.0, 0.0, 32, 25)  # links of a device that the table has not


@dataclass(frozen=True)
class Hardware:
    """`gpus` devices of one kind. memory, flops: bytes and bf16 FLOP/s of one (0: not known, then no hours). link,
    network, host: bytes/s that are reached to others of a host, of a whole host to others, and to main memory.
    """

    kind: str
    gpus: int
    memory: float
    flops: float
    link: float = 16e9
    network: float = 2.5e9
    host: float = 25e9
    per_node: int = PER_NODE

    @property
    def nodes(self) -> int:
        """Hosts."""
        return math.ceil(self.gpus / self.per_node)

    @property
    def here(self) -> int:
        """Devices of a host that are used."""
        return min(self.gpus, self.per_node)


def hardware_of(
    kind: str,
    gpus: int,
    per_node: int = PER_NODE,
    link: float | None = None,
    network: float | None = None,
) -> Hardware:
    """The named kind; "" is what this machine has: its GPUs, or its CPU and main memory. link: GB/s one way, network:
    Gbit/s of a host, where they are not those of the table.
    """
    if not 1 <= gpus <= MOST_GPUS:
        raise InputError(f"--gpus {gpus}: at least 1, at most {MOST_GPUS:,}")
    if not 1 <= per_node <= MOST_GPUS:
        raise InputError(f"--gpus-per-node {per_node}: at least 1")
    for option, value in (("--link", link), ("--network", network)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{option} {value}: more than 0")
    name, memory, flops, table = _named(kind) if kind else _here(gpus)
    reached = REACHED if (link or table.link) > 64 else REACHED_PCIE
    return Hardware(
        kind=name,
        gpus=gpus,
        memory=memory,
        flops=flops,
        link=reached * 1e9 * (link or table.link),
        network=REACHED * 1e9 / 8 * (network or table.network),
        host=1e9 * table.host,
        per_node=per_node,
    )


def _named(kind: str) -> tuple[str, float, float, Gpu]:
    found = find_gpu(kind)
    if not found:
        raise InputError(f"--gpu {kind}: not known; it may be {', '.join(GPUS)}")
    gpu = GPUS[found]
    return found, gpu.memory * GIB, gpu.tflops * 1e12, gpu


def _here(gpus: int) -> tuple[str, float, float, Gpu]:
    import torch

    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        kind = find_gpu(about.name)
        gpu = GPUS.get(kind, UNKNOWN)
        return kind or about.name, float(about.total_memory), gpu.tflops * 1e12, gpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return "CPU", memory / gpus, 0.0, UNKNOWN
