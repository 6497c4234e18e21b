"""DeepSpeed, for what it is good at: ZeRO-2 and 3 with optimizer and weights in the host's memory.

Configurations are infra/deepspeed/<name>.json; what params.yaml says (clipping, precision) is put in here. Models are
loaded whole by every rank and sharded when training begins.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videollava.errors import InputError
from videollava.machine import Strategy
from videollava.train.engine.ranks import join_ranks
from videollava.train.engine.types import Engine, Learning
from videollava.train.engine.whole import gather_weights

__all__ = ["DeepSpeedEngine"]

CONFIGS = Path("infra/deepspeed")


class DeepSpeedEngine(Engine):
    """Strategies zero2, zero3 and their offload."""

    engine: Any
    config: dict[str, Any]
    _last = True

    @classmethod
    def start(cls, strategy: Strategy, bf16: bool, clip: float, patience: timedelta) -> DeepSpeedEngine:
        """On this process's device, among the launcher's ranks; DeepSpeed's process group is there afterwards."""
        ranks = join_ranks(patience)
        try:
            import deepspeed
        except ImportError as error:
            raise InputError(
                f"machine.yaml: strategy {strategy} needs the deepspeed package: pip install 'videollava[deepspeed]', "
                "or set strategy: sharded"
            ) from error
        deepspeed.utils.logger.setLevel(logging.WARNING)
        # At every collective: DeepSpeed still uses the names that torch 2.13 renamed.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
        _name_this_process()
        backend = "nccl" if ranks.device.type == "cuda" else "gloo"
        deepspeed.init_distributed(dist_backend=backend, timeout=patience, verbose=False)
        made = cls(strategy, bf16, ranks)
        made.config = _read_config(strategy) | {"gradient_clipping": clip, "bf16": {"enabled": bf16}}
        return made

    def prepare(self, model: nn.Module, learning: Learning) -> tuple[nn.Module, torch.optim.Optimizer]:
        import deepspeed

        if self.strategy.endswith("offload"):
            from deepspeed.ops.adam import DeepSpeedCPUAdam as Adam  # AdamW, by default
        else:
            from torch.optim import AdamW as Adam
        optimizer = Adam(learning.groups, weight_decay=learning.weight_decay, betas=learning.betas)
        self.engine, made, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=self.config)
        self.called = self.engine
        return self.engine, made

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        self._last = last
        yield

    def backward(self, loss: Tensor) -> None:
        self.engine.set_gradient_accumulation_boundary(is_boundary=self._last)
        self.engine.backward(loss)

    def step(self, clip: float) -> Tensor | float | None:
        # It cuts at what its configuration says.
        self.engine.step()
        norm: Tensor | float | None = self.engine.get_global_grad_norm()
        return norm

    def forget(self) -> None:
        self.engine.optimizer.zero_grad()

    def make_whole(self, model: nn.Module, learned_only: bool) -> None:
        import deepspeed

        weights = [
            p for p in model.parameters() if hasattr(p, "ds_id") and (p.requires_grad or not learned_only)
        ]

        @contextmanager
        def gathered(weight: nn.Parameter) -> Iterator[Tensor]:
            with deepspeed.zero.GatheredParameters([weight]):
                yield weight

        gather_weights(model, weights, gathered, self.first)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        raise NotImplementedError("small models are not trained by DeepSpeed")


def _read_config(name: str) -> dict[str, Any]:
    folders = (CONFIGS, Path(__file__).parents[3] / CONFIGS)
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
