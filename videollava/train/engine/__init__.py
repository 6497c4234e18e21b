"""What computes a step on 1 to N ranks: torch's `fully_shard`, or DeepSpeed; all that the loop knows is `Engine`."""

from videollava.train.engine.start import make_engine, peak_flops, usable
from videollava.train.engine.types import Engine

__all__ = ["Engine", "make_engine", "peak_flops", "usable"]
