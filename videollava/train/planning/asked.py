"""`videollava plan`: options in, text out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.machine import Machine, load_machine
from videollava.machine.pools import FILE, machine_of
from videollava.params import load_params
from videollava.train.planning.hardware import PER_NODE, hardware_of
from videollava.train.planning.outlook import plan
from videollava.train.planning.scale import look_far, scale_json, scale_text
from videollava.train.planning.shape import model_of
from videollava.train.planning.text import as_json, as_text, refuse_misfits
from videollava.train.planning.typical import parse_samples

__all__ = ["answer"]


def answer(asked: Any, workspace: Path) -> None:
    """Print the plan that the command's options ask for. InputError where nothing fits."""
    params = load_params(asked.params, asked.set)
    machine, kind = _behind(asked.pool, asked.gpu, workspace)
    work = machine.work("finetune")
    gpus = work.ranks if asked.gpus is None else asked.gpus
    per_node = (work.per_node if asked.pool else PER_NODE) if asked.per_node is None else asked.per_node
    hardware = hardware_of(kind, gpus, per_node, asked.link, asked.network)
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


def _behind(pool: str, kind: str, workspace: Path) -> tuple[Machine, str]:
    """The machine file to plan with and the kind of GPU ("": this machine's): a pool's, where one is named."""
    if not pool:
        return load_machine(workspace), kind
    machine, there = machine_of(pool, workspace)
    if not (kind or there):
        raise InputError(
            f"{workspace / FILE}: {pool}: gpu, the kind of its GPUs, is not set; set it, or give --gpu"
        )
    return machine, kind or there
