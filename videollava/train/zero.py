"""DeepSpeed: its configuration, checkpoints of a sharded run, and weights gathered from ZeRO-3.

Configurations are infra/deepspeed/<name>.json; what params.yaml says (clipping, precision) is put in here. Models are
loaded whole by every rank and sharded when training begins.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videollava.errors import InputError
from videollava.machine import Strategy
from videollava.params import Train

__all__ = [
    "deepspeed_plugin",
    "is_sharded",
    "learned_bytes",
    "load_models_whole",
    "load_shards",
    "make_whole",
    "save_shards",
]

CONFIGS = Path("infra/deepspeed")
TAG = "state"
STATE_BYTES = 14  # a learned weight in a checkpoint: itself in bfloat16, in float32, and two moments


def deepspeed_plugin(settings: Train, strategy: Strategy) -> Any:
    """accelerate's plugin for a DeepSpeed strategy; DeepSpeed's process group is there afterwards."""
    try:
        import deepspeed
        from accelerate import DeepSpeedPlugin
    except ImportError as error:
        raise InputError(
            f"machine.yaml: strategy {strategy} needs the deepspeed package: pip install 'videollava[deepspeed]', "
            "or set strategy: ddp"
        ) from error
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # At every collective: DeepSpeed still uses the names that torch 2.13 renamed.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    _name_this_process()
    if not torch.cuda.is_available():
        deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    config = _read_config(strategy)
    config["gradient_clipping"] = settings.clip
    config["bf16"] = {"enabled": settings.precision == "bf16"}
    return DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=False)


def load_models_whole() -> None:
    """Have transformers load models as ever under ZeRO-3: they are put together from parts first, and sharded when
    training begins.
    """
    from transformers.integrations import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _read_config(name: str) -> dict[str, Any]:
    folders = (CONFIGS, Path(__file__).parents[2] / CONFIGS)
    file = next((folder / f"{name}.json" for folder in folders if (folder / f"{name}.json").is_file()), None)
    if file is None:
        raise InputError(f"{CONFIGS}/{name}.json: not found; run the stage in a checkout of the repository")
    try:
        config: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file}: not JSON: {error}") from error
    return config


def _name_this_process() -> None:
    """DeepSpeed wants a launcher's environment even for one process."""
    if "RANK" in os.environ:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    os.environ.update(alone)


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights lie in parts on the ranks (ZeRO-3)."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def make_whole(model: nn.Module, learned_only: bool) -> None:
    """Gather the weights of a ZeRO-3 model on rank 0, as an ordinary model in host memory; training is over then.

    Every rank calls it, weight by weight: no device holds more than one at a time. On other ranks nothing changes.
    """
    import deepspeed
    from torch import distributed

    first = distributed.get_rank() == 0
    whole: dict[str, Tensor] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if learned_only and not weight.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters([weight]):
            if first:
                whole[name] = weight.detach().to("cpu", copy=True)
    for name, tensor in whole.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))


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
