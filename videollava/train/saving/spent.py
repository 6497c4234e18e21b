"""When checkpoints have had their day: not before the stage's outputs are sealed.

Under DVC a stage's outputs are sealed after its command has ended: they are summed, put into the cache and written down
in dvc.lock, which takes minutes where they are large. Killed then, the stage is run again, its outputs gone; it goes on
from its last step if that was kept. So there the next stage of training clears up behind it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from videollava.data.modalities import KINDS
from videollava.errors import InputError
from videollava.machine import Machine
from videollava.params import Params
from videollava.tracking import input_key
from videollava.tracking.lineage import locked_input_key
from videollava.train.saving.listing import remove_run
from videollava.train.saving.opening import open_place
from videollava.train.saving.places import Place

__all__ = ["clear_sealed", "clear_unless_awaited", "sealed_later"]

# Stages in their order, and the runs that each is made of.
RUNS = {
    "bases": ("bases",),
    "align": ("align-text", *(f"align-{kind}" for kind in KINDS)),
    "pretrain": ("pretrain",),
    "finetune": ("finetune",),
    "evaluate": (),
}


def sealed_later(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether DVC runs this stage: its outputs are sealed when it has ended."""
    return bool(environment.get("DVC_STAGE"))


def clear_unless_awaited(place: Place) -> None:
    """A stage has written its outputs: its checkpoints go, unless those are still to be sealed."""
    if not sealed_later():
        place.clear()


def clear_sealed(stage: str, params: Params, workspace: Path, machine: Machine) -> None:
    """As `stage` begins, remove the checkpoints of the stages before it that dvc.lock has with these inputs.

    One that was finished early keeps them: it may go on to its end one day. A place that is away keeps them too.
    """
    names = list(RUNS)
    if stage not in RUNS or int(os.environ.get("RANK", "0")):
        return
    for before in names[: names.index(stage)]:
        sealed = locked_input_key(workspace, before)
        if not sealed or sealed != input_key(workspace, before):
            continue
        key = input_key(workspace, before, used=params)
        for run in RUNS[before]:
            folder = workspace / "checkpoints" / f"{run}-{key[:16]}"
            place = open_place(folder, machine.work(before).checkpoint_place)
            try:
                last = place.newest()
                if last is not None and last.step == last.about["steps"]:
                    remove_run(folder.name, machine, workspace)  # whoever made it has ended
            except InputError as error:
                print(f"checkpoints of {run} stay: {error}", flush=True)
