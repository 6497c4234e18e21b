"""Checkpoints of a run that DeepSpeed shards: each rank writes and reads its part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from videollava.errors import InputError

__all__ = ["learned_bytes", "load_shards", "save_shards"]

TAG = "state"
STATE_BYTES = 14  # a learned weight in a checkpoint: itself in bfloat16, in float32, and two moments


def learned_bytes(model: nn.Module) -> int:
    """What a checkpoint of all ranks takes on disk."""
    learned = (p for p in model.parameters() if p.requires_grad)
    return STATE_BYTES * sum(getattr(p, "ds_numel", p.numel()) for p in learned)


def save_shards(engine: Any, folder: Path) -> None:
    """Write this rank's part of the state into `folder`; every rank calls it."""
    engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)


def load_shards(engine: Any, folder: Path) -> None:
    """Read this rank's part of the state; weights and moments only, no code."""
    engine.checkpoint_engine.load = _read
    found, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    if found is None:
        raise InputError(f"{folder}: holds no DeepSpeed state; remove it to go on from the checkpoint before")


def _read(path: str, map_location: Any = None) -> Any:
    with torch.serialization.safe_globals(_known_classes()):
        return torch.load(path, map_location=map_location, weights_only=True)


def _known_classes() -> list[Any]:
    """What DeepSpeed puts into its checkpoints besides tensors and plain values."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
