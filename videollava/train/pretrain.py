"""Stage 1: the shared projector learns on captions, from nothing or from the given model's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from videollava.machine import DEFAULTS, Machine
from videollava.params import Params
from videollava.train.instruct import instruct
from videollava.train.launch.fence import check_held

__all__ = ["run"]


def run(params: Params, workspace: Path, machine: Machine = DEFAULTS) -> None:
    """See `videollava.train.instruct`. With no epochs the projector of bases.model goes on as it is; without such a
    model there is none yet (an empty models/projector), and stage 2 begins with a new one.
    """
    if params.pretrain.epochs:
        instruct("pretrain", params, workspace, machine)
        return
    if os.environ.get("RANK", "0") == "0":
        check_held()
        given, target = workspace / "models/given/projector", workspace / "models/projector"
        shutil.rmtree(target, ignore_errors=True)
        if params.bases.model:
            shutil.copytree(given, target)
            print("pretrain: no epochs, the projector of bases.model is taken as it is", flush=True)
        else:
            target.mkdir(parents=True)
            print("pretrain: no epochs, stage 1 is left out; stage 2 begins with a new projector", flush=True)
