"""Questions a second at the paper's geometry: one by one, in batches, and in batches with layers in 4 bits."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bench.gpu_check.four_bits import quantize_layers
from bench.gpu_check.seven_b import Room, build, device_here, geometry
from bench.gpu_check.told import tell
from bench.padding.samples import Geometry
from videollava.evaluate.batches import Sample
from videollava.evaluate.generate import generate_each

TEXT = 40  # tokens of a question
NEVER = 2  # the end's id


def main(argv: Sequence[str] | None = None) -> int:
    """Three rows of rates for pictures, one for clips."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args(argv)
    shape, device = geometry(arguments.small), device_here()
    many, few, new = (8, 2, 4) if arguments.small else (256, 12, 16)
    model = build(shape, device, shape.language["layers"]).eval()
    with torch.no_grad():
        # All answers have `new` tokens, and no placeholder among them.
        model.lm_head.weight[[NEVER, *shape.placeholders]] = 0.0
    pictures, clips = questions(shape, "image", many), questions(shape, "video", max(2, many // 8))
    ask(model, pictures[:2], new)  # warm
    alone = time_answers(model, [[sample] for sample in pictures[:few]], new)
    tell("pictures, one by one", **alone)
    batched = time_answers(model, [pictures], new)
    tell("pictures, in batches", **batched, times=batched["questions_per_s"] / alone["questions_per_s"])
    tell("clips, in batches", **time_answers(model, [clips], new))
    quantize_layers(model)
    room = Room(device)
    room.start()
    ask(model, pictures[:2], new)
    tell("pictures, one by one, 4 bits", **time_answers(model, [[sample] for sample in pictures[:few]], new))
    tell("pictures, in batches, 4 bits", **time_answers(model, [pictures], new), **room.seen())
    return 0


def questions(shape: Geometry, kind: str, count: int) -> list[Sample]:
    """Each about a medium of its own, of noise."""
    random, side = np.random.default_rng(0), shape.image_size
    place = shape.placeholders[kind == "video"]
    tokens = shape.video_tokens if kind == "video" else shape.image_tokens
    made = []
    for number in range(count):
        text = random.integers(3, shape.vocabulary - 2, TEXT).tolist()
        size = (8, 3, side, side) if kind == "video" else (3, side, side)
        pixels = torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        ids = [1, *[place] * tokens, *text]
        made.append(Sample(ids, videos=[pixels]) if kind == "video" else Sample(ids, images=[pixels]))
    return made


def ask(model: Any, samples: Sequence[Sample], new: int) -> dict[int, list[int]]:
    """Tokens of each answer."""
    return dict(generate_each(model, SimpleNamespace(eos_token_id=NEVER), samples, new))


def time_answers(model: Any, groups: Sequence[Sequence[Sample]], new: int) -> dict[str, float]:
    """Questions and new tokens a second, the groups one after the other."""
    synchronize()
    began = time.perf_counter()
    answers = [answer for group in groups for answer in ask(model, group, new).values()]
    synchronize()
    seconds = time.perf_counter() - began
    tokens = sum(map(len, answers))
    return {
        "questions_per_s": round(len(answers) / seconds, 2),
        "new_tokens_per_s": round(tokens / seconds, 1),
    }


def synchronize() -> None:
    """Wait for the card."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    raise SystemExit(main())
