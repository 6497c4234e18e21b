"""A checkpoint of a stage under way as a whole model: what it has learned so far, put into the parts it began from.

In: a checkpoint's folder, and the workspace's models/{bases,encoders} and projector. Out: a model's folder in our
format, such as evaluation reads. The run that wrote the checkpoint does not notice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.params import Params
from videollava.train import adapters, assemble
from videollava.train.saving.places import Damaged, FolderPlace, Whole, read_manifest
from videollava.train.saving.resuming import read_weights

__all__ = ["find", "write_model"]

STAGES = ("pretrain", "finetune")


def find(named: str, workspace: Path) -> Whole:
    """The checkpoint of a folder, or the newest of a stage (its latest run's) by the stage's name.

    InputError where there is none, or it is of a stage that ends in no model that answers.
    """
    if named in STAGES:
        folders = sorted((workspace / "checkpoints").glob(f"{named}-*"), key=_latest, reverse=True)
        found = next((whole for folder in folders if (whole := FolderPlace(folder).newest())), None)
        if found is None:
            raise InputError(
                f"--checkpoint {named}: no checkpoint of {named} in {workspace / 'checkpoints'}: the first comes after "
                "machine.yaml's checkpoint_minutes, and a stage that is done keeps none (evaluate its model)"
            )
    else:
        found = _in(Path(named))
    stage = str(found.about.get("stage"))
    if stage not in STAGES:
        raise InputError(
            f"--checkpoint {named}: it is of {stage}; {' and '.join(STAGES)} have a model to ask"
        )
    return found


def write_model(whole: Whole, params: Params, models: Path, target: Path) -> None:
    """The model of a checkpoint into the folder `target`. InputError where `params` and `models` are of another run."""
    stage = str(whole.about["stage"])
    learned, language_learns = read_weights(Path(whole.where)), stage == "finetune"
    projector = models / ("projector" if language_learns else "given/projector")
    settings = getattr(params, stage)
    adapted = language_learns and settings.adapter != "none"
    # On the host; what learned as it learned, the rest in the types that the parts were saved in.
    types = assemble.Types(language=torch.float32 if language_learns and not adapted else None)
    model, tokenizer = assemble.put_together(params.model, models, projector, types, torch.device("cpu"))
    learner = adapters.add_adapter(model, settings.lora) if adapted else model
    _put(learner, learned, whole.where)
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


def _in(folder: Path) -> Whole:
    try:
        return read_manifest(folder)
    except Damaged as reason:
        raise InputError(f"--checkpoint {folder}: not a whole checkpoint: {reason}") from reason


def _latest(folder: Path) -> float:
    return max((one.stat().st_mtime for one in folder.glob("step-*")), default=0.0)
