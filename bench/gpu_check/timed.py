"""Some steps of training, timed, beside what was predicted of their memory."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import torch

from bench.gpu_check.seven_b import Room
from bench.gpu_check.told import tell
from bench.padding.ours import Run, train_packed
from bench.padding.samples import Samples, Stage
from videollava.machine import Work
from videollava.params import Train
from videollava.train.engine import peak_flops
from videollava.train.memory import GIB, Weights, footprint

__all__ = ["learners_of", "time_steps", "weights_of"]


def weights_of(model: Any) -> Weights:
    """Numbers of the model's weights, as they are now."""
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    quantized = sum(2 * p.numel() for p in model.parameters() if p.dtype == torch.uint8)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad and p.dtype != torch.uint8)
    return Weights(learned, frozen + quantized, quantized)


def learners_of(model: Any) -> list[torch.nn.Parameter]:
    """What learns."""
    return [p for p in model.parameters() if p.requires_grad]


def time_steps(
    what: str, model: Any, stage: Stage, samples: Samples, settings: Train, work: Work, **told: Any
) -> bool:
    """Run an epoch of `samples` and tell its figures; False where memory ran out, which is told too."""
    room = Room(next(model.parameters()).device)
    config = model.get_base_model().config if hasattr(model, "get_base_model") else model.config
    weights = weights_of(model)
    room.start()
    try:
        run = train_packed(
            model, [{"params": learners_of(model), "lr": stage.rate}], stage, samples, settings, work
        )
    except torch.OutOfMemoryError as error:
        tell(what, **told, error=str(error).splitlines()[0][:200])
        return False
    finally:
        # Gradients are the model's own: the next run starts without them.
        model.zero_grad(set_to_none=True)
        gc.collect()
    tokens, targets = largest_pack(run, samples)
    need = footprint(weights, config, settings, work, stage.language_learns, 1, tokens, targets).total
    losses = [run.losses[0], run.losses[-1]]
    tell(
        what,
        **told,
        **rates(run, samples, room.device),
        predicted_gib=round(need / GIB, 2),
        **room.seen(),
        loss=losses,
    )
    return True


def largest_pack(run: Run, samples: Samples) -> tuple[int, int]:
    """Tokens and targets of the pack with most tokens."""
    packs = [run.plan.pack(number) for number in range(len(run.plan.packs) - 1)]
    largest = max(packs, key=lambda rows: int(samples.tokens[rows].sum()))
    return int(samples.tokens[largest].sum()), int(samples.targets[largest].sum())


def rates(run: Run, samples: Samples, device: torch.device) -> dict[str, float]:
    """Over the steps after the first."""
    steps = len(run.plan) - 1
    done = np.concatenate([run.samples_of(step) for step in range(1, len(run.plan))])
    seconds = run.ends[-1][0] - run.ends[0][0]
    found = {
        "step_s": round(seconds / steps, 4),
        "tokens_per_s": round(float(samples.tokens[done].sum()) / seconds, 1),
        "samples_per_s": round(len(done) / seconds, 2),
    }
    if peak := peak_flops(device):
        found["mfu"] = round(float(run.cost[done].sum()) / seconds / peak, 4)
    return found
