"""A checkpoint of a stage under way as a whole model: what it has learned so far, put into the parts it began from.

In: a checkpoint's folder, and the workspace's models/{bases,encoders} and projector. Out: a model's folder in our
format, such as evaluation reads. The run that wrote the checkpoint does not notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videollava.errors import InputError
from videollava.machine import Machine
from videollava.model import checkpoint
from videollava.params import Params
from videollava.train import adapters, assemble
from videollava.train.saving.holder import attempt_name
from videollava.train.saving.listing import find_runs
from videollava.train.saving.opening import folder_of, is_s3, objects_of
from videollava.train.saving.places import Damaged, FolderPlace, Place, Whole, read_manifest
from videollava.train.saving.resuming import read_weights
from videollava.train.saving.s3 import S3Place

__all__ = ["Seen", "find", "write_model"]

STAGES = ("pretrain", "finetune")


@dataclass(frozen=True)
class Seen:
    """A checkpoint, and the place it stands in."""

    whole: Whole
    place: Place

    @property
    def stage(self) -> str:
        """Whose it is."""
        return str(self.whole.about.get("stage"))


def find(named: str, workspace: Path, machine: Machine, aside: Path) -> Seen:
    """The checkpoint of a folder, or the newest of a stage (its latest run's), wherever machine.yaml has them stand.

    aside: a folder for what has to be fetched. InputError where there is none, or it is of a stage that ends in no
    model that answers.
    """
    found = _newest(named, workspace, machine, aside) if named in STAGES else _in(Path(named))
    if found.stage not in STAGES:
        raise InputError(
            f"--checkpoint {named}: it is of {found.stage}; {' and '.join(STAGES)} have a model to ask"
        )
    return found


def _newest(stage: str, workspace: Path, machine: Machine, aside: Path) -> Seen:
    runs = [run for run in find_runs(machine, workspace) if run.name.startswith(f"{stage}-") and run.step]
    for run in sorted(runs, key=lambda run: run.written, reverse=True):
        place: Place
        if is_s3(run.address):
            objects = objects_of(run.address, workspace, run.name)
            place = S3Place(objects, aside / run.name, attempt_name())
        else:
            place = FolderPlace(folder_of(run.address, workspace) / run.name)
        if whole := place.newest():
            return Seen(whole, place)
    raise InputError(
        f"--checkpoint {stage}: no checkpoint of {stage} where machine.yaml has them stand: the first comes after "
        "checkpoint_minutes, and a stage that is done keeps none (evaluate its model)"
    )


def write_model(seen: Seen, params: Params, models: Path, target: Path) -> None:
    """The model of a checkpoint into the folder `target`. InputError where `params` and `models` are of another run."""
    stage, where = seen.stage, seen.whole.where
    learned, language_learns = read_weights(seen.place, seen.whole), stage == "finetune"
    projector = models / ("projector" if language_learns else "given/projector")
    settings = getattr(params, stage)
    adapted = language_learns and settings.adapter != "none"
    # On the host; what learned as it learned, the rest in the types that the parts were saved in.
    types = assemble.Types(language=torch.float32 if language_learns and not adapted else None)
    model, tokenizer = assemble.put_together(params.model, models, projector, types, torch.device("cpu"))
    learner = adapters.add_adapter(model, settings.lora) if adapted else model
    _put(learner, learned, where)
    if adapted:
        model = learner.merge_and_unload()
    dtype = model.lm_head.weight.dtype  # one throughout
    for kind in ("image_tower", "video_tower", "multi_modal_projector"):
        getattr(model.model, kind).to(dtype)
    checkpoint.save(model.eval(), tokenizer, target)


def _put(learner: Any, learned: dict[str, Tensor], where: str) -> None:
    here = dict(learner.named_parameters())
    for name, weight in learned.items():
        if name not in here or here[name].shape != weight.shape:
            raise InputError(
                f"{where}: its {name} {tuple(weight.shape)} has no place in the model that params.yaml and models/ "
                "describe: evaluate it with the params.yaml it was made with"
            )
    learner.load_state_dict(learned, strict=False)


def _in(folder: Path) -> Seen:
    try:
        return Seen(read_manifest(folder), FolderPlace(folder.parent))
    except Damaged as reason:
        raise InputError(
            f"--checkpoint {folder}: not a whole checkpoint: {reason}; name {' or '.join(STAGES)}, or a folder "
            "step-NNNNNNNN of a run that `videollava checkpoints` lists"
        ) from reason
