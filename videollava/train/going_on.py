"""Going on from the checkpoint of another run: of other code, or of another pack size, on the same way.

$VIDEOLLAVA_GO_ON_FROM names its folder (`--go-on-from` of a stage and of a retraining sets it, so that it passes
through DVC, which asks for no such thing). It counts where a run has no checkpoint of its own yet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from videollava.errors import InputError
from videollava.train.saving.places import Damaged, read_manifest

__all__ = ["VARIABLE", "other_checkpoint", "settle_other"]

VARIABLE = "VIDEOLLAVA_GO_ON_FROM"


def settle_other(named: str, stage: str = "", environment: MutableMapping[str, str] = os.environ) -> str:
    """Have the stages of this process, and of those it starts, begin from a checkpoint; whose it is.

    InputError where it is no whole checkpoint, or not one of `stage`.
    """
    if named.lower().startswith("s3://"):
        raise InputError(
            f"--go-on-from {named}: copy it into a folder first: what is there may be dropped any time"
        )
    folder = Path(named).expanduser().absolute()
    whose = _stage_of(folder)
    if stage and whose.partition("-")[0] != stage:
        raise InputError(f"--go-on-from {named}: a checkpoint of {whose}, not of {stage}")
    environment[VARIABLE] = str(folder)
    return whose


def other_checkpoint(name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that the job of this name is to begin from; None where none is named, or one of another job."""
    named = environment.get(VARIABLE)
    if not named:
        return None
    folder = Path(named)
    return folder if _stage_of(folder) == name else None


def _stage_of(folder: Path) -> str:
    try:
        return str(read_manifest(folder).about.get("stage", ""))
    except Damaged as reason:
        raise InputError(
            f"--go-on-from {folder}: not a whole checkpoint: {reason}; one is a folder step-NNNNNNNN of a run that "
            "`videollava checkpoints` lists"
        ) from reason
