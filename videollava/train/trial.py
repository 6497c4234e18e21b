"""The trial before the first step: the pack that needs most memory, forward and backward, and nothing learned.

A run that would not fit says so within a minute, not at the hour when its longest pack comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from videollava.data.load.packing import Lengths, Plan
from videollava.errors import InputError

if TYPE_CHECKING:
    from videollava.train.loop import Job

__all__ = ["try_worst_pack", "worst_pack"]


def worst_pack(plans: list[Plan], lengths: Lengths, weights: tuple[float, float]) -> tuple[int, int]:
    """Epoch and number of the pack that needs most memory; weights: bytes a token and a target token take."""
    need = weights[0] * lengths.tokens + weights[1] * lengths.targets
    worst, most = (0, 0), -1.0
    for epoch, plan in enumerate(plans):
        sums = plan.sums(need)
        pack = int(sums.argmax())
        if sums[pack] > most:
            worst, most = (epoch, pack), float(sums[pack])
    return worst


def try_worst_pack(job: Job, model: nn.Module, optimizer: Any) -> None:
    """Run `job.worst` on every rank; weights, moments, gradients and random state come out as they went in.

    The loss is multiplied by 0: what DeepSpeed has then gathered of gradients is exactly nothing. Raises InputError
    where memory runs out.
    """
    if job.worst is None:
        return
    engine, (epoch, number) = job.engine, job.worst
    batch = job.packs[epoch][number]
    device = engine.device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            room = _room_for_moments(job, optimizer)
            with engine.micro_step(last=False):
                engine.backward(0 * job.forward(model, batch, 1.0))
            del room
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        raise InputError(_what_to_do(job, int(batch.input_ids.numel()))) from error
    engine.forget()


def _room_for_moments(job: Job, optimizer: Any) -> list[Tensor]:
    """Memory that AdamW takes at its first step: held during the trial, so that it is not counted as free."""
    if job.engine.device.type != "cuda" or job.work.strategy.startswith("zero") or optimizer.state:
        return []
    learned = [p for group in optimizer.param_groups for p in group["params"]]
    return [torch.empty_like(p) for p in learned for _ in range(2)]


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _what_to_do(job: Job, tokens: int) -> str:
    work = job.work
    remedies = [f"lower tokens_per_pack (now {work.tokens_per_pack})"]
    if not work.recompute:
        remedies.append("set recompute: true")
    less = {"replicated": "sharded", "sharded-node": "sharded", "sharded": "zero3-offload", "zero2": "zero3"}
    if work.strategy in less:
        remedies.append(f"set strategy: {less[work.strategy]}")
    return (
        f"{job.name}: the largest pack ({tokens:,} tokens) does not fit into the memory of {job.engine.device}: "
        f"in machine.yaml {', or '.join(remedies)}; `videollava plan` shows what fits"
    )
