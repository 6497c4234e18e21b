"""`videollava plan`: options in, text out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.machine import load_machine
from videollava.params import load_params
from videollava.train.planning.hardware import hardware_of
from videollava.train.planning.outlook import plan
from videollava.train.planning.scale import look_far, scale_json, scale_text
from videollava.train.planning.shape import model_of
from videollava.train.planning.text import as_json, as_text, refuse_misfits
from videollava.train.planning.typical import parse_samples

__all__ = ["answer"]


def answer(asked: Any, workspace: Path) -> None:
    """Print the plan that the command's options ask for. InputError where nothing fits."""
    params = load_params(asked.params, asked.set)
    machine = load_machine(workspace)
    gpus = machine.work("finetune").ranks if asked.gpus is None else asked.gpus
    hardware = hardware_of(asked.gpu, gpus, asked.gpus_per_node, asked.link, asked.network)
    stated = parse_samples(asked.samples)
    if len(stated) < len(asked.samples):
        raise InputError("--samples: one stage is given twice; state its numbers once")
    for stage in stated:
        if (workspace / f"data/index/splits/{stage}.arrow").is_file():
            raise InputError(
                f"--samples {stage}=..: data/index has the {stage} split, and its lengths count; leave it out, or "
                "plan in a folder without data/index"
            )
    common = (params, machine, workspace, hardware, stated, asked.mfu, asked.price)
    if asked.scale:
        scale = look_far(*common, asked.worth)
        print(scale_json(scale) if asked.json else scale_text(scale))
        return
    outlook = plan(*common)
    print(as_json(outlook) if asked.json else as_text(outlook))
    refuse_misfits(outlook, model_of(params, workspace))
