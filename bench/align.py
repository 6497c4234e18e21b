"""Alignment in pieces against whole: pairs a second and peak memory, at the same loss.

    python bench/align.py [--pairs 256] [--pieces 32] [--steps 4] [--recompute]

One vision encoder (clips, half the patches) learns from random media and texts, each way in a process of its own, so
that its peak memory is its own; both see the same batches from the same weights, and the losses must agree. Whole is
what a user writes: one forward pass, the softmax loss, one backward pass.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import torch
from torch.nn import functional as F

from videollava.data.load.pairs import PairBatch
from videollava.machine import Work
from videollava.model.encoders import LanguageBind, pair_config
from videollava.params import Encoder, Model, Train
from videollava.train.contrast.learners import choose_groups
from videollava.train.contrast.steps import Contrast
from videollava.train.engine.torch_engine import TorchEngine
from videollava.train.engine.types import Learning
from videollava.train.recompute import recompute_layers

SHAPE = Model(
    image_size=64,
    patch_size=8,
    frames=8,
    embed_dim=128,
    vision=Encoder(width=128, layers=4, heads=4, mlp=512),
    text=Encoder(width=64, layers=1, heads=2, mlp=128),
)
MIB = 2**20


def draw(pairs: int, step: int) -> PairBatch:
    """Random clips and texts; captions all differ."""
    source = torch.Generator().manual_seed(step)
    side, patches = SHAPE.image_size, (SHAPE.image_size // SHAPE.patch_size) ** 2
    pixels = torch.randint(0, 256, (pairs, SHAPE.frames, 3, side, side), dtype=torch.uint8, generator=source)
    texts = F.normalize(torch.randn(pairs, SHAPE.embed_dim, generator=source), dim=-1)
    kept = torch.rand(pairs, patches, generator=source).argsort(1)[:, : patches // 2].sort(1).values
    words, there = torch.ones(pairs, 4, dtype=torch.int64), torch.ones(pairs, dtype=torch.bool)
    return PairBatch(0, words, words, pixels, torch.arange(pairs), texts, there, [1] * pairs, kept=kept)


def measure(pairs: int, pieces: int, steps: int, recompute: bool) -> dict[str, float]:
    """One way (pieces 0: whole), in this process."""
    engine = TorchEngine.start("replicated", False, timedelta(minutes=1))
    torch.manual_seed(0)
    pair = LanguageBind(pair_config(SHAPE, "video", 100, 8)).train()
    for part in (pair.text_model, pair.text_projection):
        part.requires_grad_(False)
    vision: Any = pair.vision_model
    recompute_layers(vision, Work(recompute=recompute), vision.encoder.layers)
    model, _ = engine.prepare(pair, Learning(choose_groups(pair, Train(learning_rate=1e-4))))
    contrast = Contrast(engine, pair, pieces)
    before, seconds, loss = peak(engine.device), 0.0, torch.zeros(())
    for step in range(steps + 1):
        batch, began = draw(pairs, step), time.perf_counter()
        if pieces:
            loss = contrast.learn(model, batch, True)
        else:
            loss = contrast.forward(model, batch, 1.0)
            engine.backward(loss)
        engine.step(1.0)
        loss = loss.detach().cpu()
        seconds += (time.perf_counter() - began) * (step > 0)  # the first warms up
    return {
        "pairs_per_second": pairs * steps / seconds,
        "peak_mib": (peak(engine.device) - before) / MIB,
        "loss": float(loss),
    }


def peak(device: torch.device) -> int:
    """Bytes held at most: on the card, or by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=256, help="of a batch")
    parser.add_argument("--pieces", type=int, default=32, help="pairs encoded at once")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--recompute", action="store_true", help="of all layers, in both ways")
    parser.add_argument("--one", action="store_true", help="measure in this process alone, pieces as given")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.pairs, chosen.pieces, chosen.steps, chosen.recompute)))
        return
    found = {}
    for name, pieces in (("whole", 0), ("pieces", chosen.pieces)):
        words = ["--one", "--pairs", chosen.pairs, "--pieces", pieces, "--steps", chosen.steps]
        line = [sys.executable, __file__, *map(str, words), *["--recompute"] * chosen.recompute]
        told = subprocess.run(line, check=True, capture_output=True, text=True).stdout
        found[name] = json.loads(told.splitlines()[-1])
        print(f"{name:7}", "  ".join(f"{key} {value:,.4f}" for key, value in found[name].items()), flush=True)
    apart = abs(found["whole"]["loss"] - found["pieces"]["loss"])
    if apart > 1e-4:
        sys.exit(f"the losses differ by {apart:g}")


if __name__ == "__main__":
    main()
