"""Stage 1: the shared projector learns on captions."""

from __future__ import annotations

from pathlib import Path

from videollava.machine import DEFAULTS, Machine
from videollava.params import Params
from videollava.train.instruct import instruct

__all__ = ["run"]


def run(params: Params, workspace: Path, machine: Machine = DEFAULTS) -> None:
    """See `videollava.train.instruct`."""
    instruct("pretrain", params, workspace, machine)
