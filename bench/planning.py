"""Start-up cost at the paper's scale: packing and rank balance for 1.26 M (stage 1) and 0.77 M (stage 2) samples.

    python bench/planning.py

Lengths are synthetic with the paper's mix: 256 tokens an image, 8 x 257 a video, plus text.
"""

from __future__ import annotations

import resource
import time

import numpy as np

from videollava.data.load.packing import Lengths, plan_epoch

STAGES = {
    # images, videos, text only, longest text, batch size
    "stage 1": (558_000, 702_000, 0, 60, 256),
    "stage 2": (625_000, 100_000, 40_000, 700, 128),
}
SETTINGS = ((8, 8192), (8, 16384), (32, 16384))  # ranks, tokens a pack


def sample(images: int, videos: int, texts: int, longest: int) -> Lengths:
    """Lengths and prices of one stage's samples."""
    draw = np.random.default_rng(0)
    tokens = np.concatenate(
        [
            256 + draw.integers(20, longest, images),
            8 * 257 + draw.integers(20, min(300, longest), videos),
            draw.integers(50, 2000, texts),
        ]
    ).astype(np.int64)
    vision = np.concatenate([np.full(images, 0.162e12), np.full(videos, 1.71e12), np.zeros(texts)])
    cost = 3 * (2 * 6.476e9 * tokens + 2.0 * 4096 * 32 * tokens.astype(float) ** 2) + vision
    return Lengths(tokens, draw.integers(5, 100, len(tokens)), cost)


def main() -> None:
    """Print one line a setting."""
    for name, (images, videos, texts, longest, batch) in STAGES.items():
        lengths = sample(images, videos, texts, longest)
        for ranks, budget in SETTINGS:
            began = time.perf_counter()
            plan = plan_epoch(lengths, batch_size=batch, ranks=ranks, budget=budget, seed=0, epoch=0)
            seconds = time.perf_counter() - began
            sizes = np.array([plan.samples_of(step) for step in range(len(plan) - 1)])
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{name}: {len(lengths.tokens):,} samples, {ranks} ranks, {budget} tokens a pack: {seconds:.1f} s, "
                f"peak {peak:.0f} MiB, {len(plan):,} steps, ranks busy {plan.busy(lengths.cost):.2%} "
                f"({plan.busy(lengths.cost, each_pack=True):.2%} where each pack is waited for), "
                f"batch {sizes.mean():.1f} +- {sizes.std():.1f}"
            )


if __name__ == "__main__":
    main()
