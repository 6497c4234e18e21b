"""What is known of GPUs by their names: memory, peak, and how fast they exchange.

Peaks are dense bf16 with float32 sums, from the vendors' data sheets and architecture papers (NVIDIA: A100, H100, H200,
B200/HGX, L4, L40S; "Ada GPU architecture" for the RTX 4090, "GA102" for the A6000; AWS for the A10G; AMD: MI300X).
Links are one direction of NVLink, Infinity Fabric or PCIe as the same sheets have them. Networks are those of usual
hosts of eight: DGX A100 (8 x 200 Gbit/s), DGX H100, H200 and B200 and MI300X platforms (8 x 400), AWS g6e (400),
g5 and g6 (100); those of cards for desks are assumed (25).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["GIB", "GPUS", "Gpu", "find_gpu", "peak_of"]

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One kind. memory: GiB that a program gets; tflops: dense bf16; link: GB/s one way to others of its host; network:
    Gbit/s of a host; host: GB/s to and from main memory.
    """

    memory: float
    tflops: float
    link: float
    network: float
    host: float = 25.0

    @property
    def switched(self) -> bool:
        """Whether GPUs of a host have links of their own, rather than PCIe."""
        return self.link > 64


GPUS = {
    "A100": Gpu(79.0, 312.0, 300, 1600),
    "A100-40GB": Gpu(39.0, 312.0, 300, 1600),
    "H100": Gpu(79.0, 989.0, 450, 3200, 50.0),
    "H100 PCIe": Gpu(79.0, 756.0, 64, 400, 50.0),
    "H200": Gpu(140.0, 989.0, 450, 3200, 50.0),
    "B200": Gpu(178.0, 2250.0, 900, 3200, 50.0),
    "MI300X": Gpu(190.0, 1307.0, 448, 3200, 50.0),
    "L40S": Gpu(44.0, 362.0, 32, 400),
    "L4": Gpu(22.0, 121.0, 32, 100),
    "A10G": Gpu(22.0, 70.0, 32, 100),
    "A6000": Gpu(47.0, 154.8, 32, 25),
    "RTX 4090": Gpu(23.5, 165.2, 32, 25),
}


def find_gpu(name: str) -> str:
    """The kind that a device's name, or a person, means ("NVIDIA A100-SXM4-80GB", "rtx4090"); "" where it is none."""
    plain = _plain(name)
    exact = [kind for kind in GPUS if _plain(kind) == plain]
    inside = [kind for kind in GPUS if re.search(rf"\b{kind}\b", name, re.IGNORECASE)]
    return max(exact or inside, key=len, default="")


def peak_of(name: str) -> float:
    """Dense bf16 peak of a device in FLOP/s, by its name; 0 where it is not known."""
    kind = find_gpu(name)
    return GPUS[kind].tflops * 1e12 if kind else 0.0


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
