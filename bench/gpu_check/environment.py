"""What is here: card, memory, driver, versions, what lacks; and whether packed attention on it is the CPU's."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.gpu_check.told import tell
from videollava.model.attention import attend_packed

USED = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "triton",
    "bitsandbytes",
    "pydantic",
    "pyarrow",
    "scipy",
)
OTHERS = ("av", "decord", "flash_attn", "deepspeed", "mlflow", "prefect", "dvc")
NEAR = {torch.bfloat16: 3e-2, torch.float32: 1e-4}  # largest difference, of values of order 1
ROUNDS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """1 where packed attention is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args(argv)
    tell("machine", system=platform.platform(), cores=os.cpu_count(), memory_gib=round(memory_gib()))
    versions = {name: version(name) for name in USED if version(name)}
    tell("software", python=platform.python_version(), cuda=str(torch.version.cuda), **versions)
    tell(
        "lacking",
        used=[name for name in USED if not version(name)],
        optional=[n for n in OTHERS if not version(n)],
    )
    if not torch.cuda.is_available():
        tell("card", name="none: all parts run on the CPU")
        return attention(torch.device("cpu"), torch.float32, arguments.small)
    card()
    device = torch.device("cuda", 0)
    wrong = [attention(device, dtype, arguments.small) for dtype in (torch.float32, torch.bfloat16)]
    speed(device)
    return max(wrong)


def memory_gib() -> float:
    """Of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def version(name: str) -> str:
    """Of an installed package; "" without one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "?" if importlib.util.find_spec(name) else ""


def card() -> None:
    """Name, memory and driver."""
    about = torch.cuda.get_device_properties(0)
    driver = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    tell(
        "card",
        name=about.name,
        memory_gib=round(about.total_memory / 2**30, 1),
        driver=driver,
        capability=f"{about.major}.{about.minor}",
        cards=torch.cuda.device_count(),
    )


def attention(device: torch.device, dtype: torch.dtype, small: bool) -> int:
    """Packed attention forward and backward against float64 products on the CPU; 1 where they differ."""
    torch.backends.cuda.matmul.allow_tf32 = False
    heads, width, lengths = (2, 16, [5, 40, 1, 18]) if small else (8, 128, [300, 2056, 17, 640])
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(sum(lengths), heads, width, generator=generator).to(dtype) for _ in range(4)]
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    found = _with_gradients(
        lambda q, k, v: attend_packed(q, k, v, ends.to(device), max(lengths)), given, device
    )
    wanted = _with_gradients(
        lambda q, k, v: _plain(q, k, v, lengths), [x.double() for x in given], torch.device("cpu")
    )
    off = [
        float((mine.double() - true).abs().max() / true.abs().max())
        for mine, true in zip(found, wanted, strict=True)
    ]
    tell(f"packed attention, {str(dtype).removeprefix('torch.')}", off_by_out_q_k_v=off)
    return int(max(off) > NEAR[dtype])


def _with_gradients(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], given: list[Tensor], device: torch.device
) -> list[Tensor]:
    *inputs, weight = (x.to(device) for x in given)
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attend(*leaves)
    grads = torch.autograd.grad((out * weight).sum(), leaves)
    return [x.detach().cpu() for x in (out, *grads)]


def _plain(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """Causal attention of each segment by itself, by products."""
    out = []
    for mine in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
        rows, columns, values = (x.transpose(0, 1) for x in mine)
        scores = rows @ columns.transpose(1, 2) * q.shape[-1] ** -0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        out.append((scores.masked_fill(hidden, float("-inf")).softmax(-1) @ values).transpose(0, 1))
    return torch.cat(out)


def speed(device: torch.device) -> None:
    """What the card gives at best: a large bfloat16 product, a copy, and a layer's packed attention."""
    square = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    seconds = timed(lambda: square @ square)
    data = torch.empty(2**30, device=device, dtype=torch.uint8)
    copying = timed(lambda: data.clone())
    lengths = [2056, 700, 500, 446] * 4
    q = torch.randn(sum(lengths), 32, 128, device=device, dtype=torch.bfloat16)
    ends = torch.tensor([0, *lengths], device=device).cumsum(0).int()
    attending = timed(lambda: attend_packed(q, q, q, ends, max(lengths)))
    tell(
        "at best",
        bf16_tflops=round(2 * 8192**3 / seconds / 1e12, 1),
        copy_tb_per_s=round(2 * 2**30 / copying / 1e12, 2),
        packed_attention_ms=round(1e3 * attending, 3),
    )


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(ROUNDS):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / ROUNDS


if __name__ == "__main__":
    raise SystemExit(main())
