"""The paper's model with random weights, made on the device itself: no copy on the host, nothing to download."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import torch

from bench.gpu_check.told import tell
from bench.padding.models import configure, make_ours
from bench.padding.samples import GEOMETRIES, STAGES, Geometry, Samples, Stage
from videollava.train.memory import GIB

__all__ = ["Room", "build", "device_here", "geometry", "samples_of", "steps_of"]

STEP_TOKENS = 16384  # of a step: one pack of 16 k, or two of 8 k
FILL = 0.94


def device_here() -> torch.device:
    """The card, or the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def geometry(small: bool, layers: int | None = None) -> Geometry:
    """The paper's, or a test's; with the original's temporal attention, and `layers` of the language model's."""
    shape = GEOMETRIES["micro" if small else "7b"]
    language = {**shape.language, "layers": layers or shape.language["layers"]}
    return dataclasses.replace(shape, language=language, temporal=True)


@dataclass(frozen=True)
class Room:
    """Bytes of the card's memory; a CPU's are not counted."""

    device: torch.device

    @property
    def total(self) -> float:
        """All of it."""
        if self.device.type != "cuda":
            return float("inf")
        return float(torch.cuda.get_device_properties(self.device).total_memory)

    def start(self) -> None:
        """Count from here."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def seen(self) -> dict[str, float]:
        """GiB since `start`: tensors at their peak, and what the allocator took."""
        if self.device.type != "cuda":
            return {}
        peak, held = torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)
        return {"allocated_gib": round(peak / GIB, 2), "seen_gib": round(held / GIB, 2)}


def build(shape: Geometry, device: torch.device, whole: int) -> Any:
    """The model in the shape's precision; `whole`: layers the language model has in the paper."""
    began = time.perf_counter()
    model = make_ours(shape, device)
    layers = shape.language["layers"]
    told = f"all {whole}" if layers == whole else f"{layers} of {whole}, at full width"
    parameters = sum(p.numel() for p in model.parameters())
    tell("the model", layers=told, parameters=parameters, built_s=time.perf_counter() - began)
    return model


def steps_of(stage: Stage, shape: Geometry) -> Stage:
    """The stage with so many samples a step that they fill STEP_TOKENS, or two of a small shape's packs."""
    tokens = STEP_TOKENS if shape.tokens_per_pack >= STEP_TOKENS else 2 * shape.tokens_per_pack
    mean = Samples(stage, shape, 4000, seed=1).tokens.mean()
    return dataclasses.replace(stage, batch=max(1, int(FILL * tokens / mean)))


def samples_of(name: str, shape: Geometry, steps: int) -> tuple[Stage, Samples]:
    """The named stage, and samples of the paper's mix and lengths for `steps` of its steps."""
    stage = steps_of(next(s for s in STAGES.values() if s.name == name), shape)
    return stage, Samples(stage, shape, steps * stage.batch, seed=1)


def config_of(shape: Geometry) -> Any:
    """The model's configuration."""
    return configure(shape)
