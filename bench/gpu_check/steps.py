"""Steps of stage 1 or 2 at the paper's geometry: packs of 8 k and 16 k tokens, recompute and compile on and off."""

from __future__ import annotations

import argparse
import gc
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.gpu_check.seven_b import Room, build, config_of, device_here, geometry, samples_of
from bench.gpu_check.timed import time_steps
from bench.gpu_check.told import tell
from bench.padding.models import choose
from bench.padding.samples import Geometry, Stage
from videollava.machine import Work
from videollava.params import Train
from videollava.train.memory import Weights, footprint
from videollava.train.recompute import recompute_layers

STEPS = 4
FILLED = 1.0  # of the card's memory: what is predicted to fit is tried, and memory that runs out is told
_outlines: dict[tuple[int, int, str], tuple[Weights, Any]] = {}


@dataclass(frozen=True)
class Way:
    """One way to compute the same steps."""

    tokens_per_pack: int
    recompute: bool
    compile: bool = False

    def __str__(self) -> str:
        size = (
            f"{self.tokens_per_pack // 1024} k" if self.tokens_per_pack >= 1024 else str(self.tokens_per_pack)
        )
        again, compiled = ("on" if on else "off" for on in (self.recompute, self.compile))
        return f"packs of {size}, recompute {again}, compile {compiled}"


def main(argv: Sequence[str] | None = None) -> int:
    """1 where not one way ran."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--stage", choices=("pretrain", "finetune"), required=True)
    arguments = parser.parse_args(argv)
    device = device_here()
    layers = fitting_layers(arguments.stage, arguments.small, device)
    left, ran = list(ways(geometry(arguments.small), device, arguments.stage == "finetune")), 0
    for _ in range(2):
        done = run_ways(left, arguments.stage, arguments.small, layers, device)
        ran += len(done)
        left = [way for way in left if way not in done]
        if not left or layers == 1:
            break
        # What fits at half the layers, beside one way that ran at all of them.
        left, layers = [*done[-1:], *left], layers // 2
    for way in left:
        tell(str(way), left_out="it would not fit")
    return int(ran == 0)


def run_ways(left: Sequence[Way], name: str, small: bool, layers: int, device: torch.device) -> list[Way]:
    """Time those ways that fit with so many layers; these."""
    shape = geometry(small, layers)
    stage, samples = samples_of(name, shape, STEPS)
    fitting = [way for way in left if predicted(shape, stage, way) < FILLED * Room(device).total]
    if not fitting:
        return []
    model = prepare(shape, stage, device, geometry(small).language["layers"])
    done = []
    for way in fitting:
        recompute_layers(model.model.language_model, Work(recompute=way.recompute))
        if way.compile:
            from videollava.train.compiled import compile_layers

            compile_layers(model)
        if time_steps(str(way), model, stage, samples, *settings_of(shape, stage, way)):
            done.append(way)
    del model
    gc.collect()
    Room(device).start()
    return done


def ways(shape: Geometry, device: torch.device, learns: bool) -> Iterator[Way]:
    """The likely best first; a compiled one, whose first step takes a while, at the end, and on a GPU alone: recomputing
    where the language model `learns`, as most do then.
    """
    sizes = (shape.tokens_per_pack // 2, shape.tokens_per_pack)
    yield from itertools.starmap(Way, ((size, again) for again in (False, True) for size in sizes))
    if device.type == "cuda":
        yield Way(sizes[1], recompute=learns, compile=True)


def settings_of(shape: Geometry, stage: Stage, way: Way) -> tuple[Train, Work]:
    """Of the training loop."""
    settings = Train(learning_rate=stage.rate, precision="bf16" if shape.precision == "bf16" else "fp32")
    return settings, Work(
        tokens_per_pack=way.tokens_per_pack, recompute=way.recompute, compile=way.compile, workers=0
    )


def fitting_layers(name: str, small: bool, device: torch.device) -> int:
    """All layers of the language model where a step fits, else half, and so on."""
    layers = geometry(small).language["layers"]
    while layers > 1:
        shape = geometry(small, layers)
        stage, _ = samples_of(name, shape, 1)
        smallest = Way(shape.tokens_per_pack // 2, recompute=True)
        if predicted(shape, stage, smallest) < FILLED * Room(device).total:
            break
        layers //= 2
    return layers


def predicted(shape: Geometry, stage: Stage, way: Way) -> float:
    """Bytes of the card that a full pack takes."""
    weights, config = _outline(shape, stage)
    targets = int(way.tokens_per_pack * (0.18 if stage.language_learns else 0.02))
    learns = stage.language_learns
    need = footprint(
        weights, config, *settings_of(shape, stage, way), learns, 1, way.tokens_per_pack, targets
    )
    return need.total


def _outline(shape: Geometry, stage: Stage) -> tuple[Weights, Any]:
    """Numbers of weights, and the configuration; kept, since an outline takes a second."""
    from videollava.model.video_llava import VideoLlavaForConditionalGeneration

    key = (shape.language["width"], shape.language["layers"], stage.name)
    if key not in _outlines:
        with torch.device("meta"):
            model = VideoLlavaForConditionalGeneration(config_of(shape))
        learned = sum(p.numel() for p in choose(model, stage))
        frozen = sum(p.numel() for p in model.parameters()) - learned
        _outlines[key] = Weights(learned, frozen), model.config
    return _outlines[key]


def prepare(shape: Geometry, stage: Stage, device: torch.device, whole: int) -> Any:
    """The model as `assemble` has it: what learns in float32, what is frozen in the shape's precision."""
    model = build(shape, device, whole)
    choose(model, stage)
    for module in (model.model.multi_modal_projector, model.model.language_model, model.lm_head):
        if all(p.requires_grad for p in module.parameters()):
            module.float()
    return model


if __name__ == "__main__":
    raise SystemExit(main())
