"""A plan as text for people and as JSON, and its refusal."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from videollava.errors import InputError
from videollava.machine import Strategy
from videollava.train.memory import GIB, Footprint
from videollava.train.plan import Outlook, StageOutlook

__all__ = ["as_json", "as_text", "refuse_misfits"]


def as_text(outlook: Outlook) -> str:
    """Some twenty lines a stage."""
    hardware, disk = outlook.hardware, outlook.disk
    lines = [f"{hardware.gpus} x {hardware.kind} ({hardware.memory / GIB:.0f} GiB each)"]
    for look in outlook.stages:
        lines += ["", *_stage_lines(look, outlook)]
    sizes = f"data {_size(disk.data)}, features {_size(disk.features)}, models {_size(disk.models)}, "
    lines += [
        "",
        f"disk: {sizes}checkpoints {_size(disk.checkpoints)}{'' if disk.measured else ' (data: assumed)'}",
    ]
    return "\n".join(lines)


def _stage_lines(look: StageOutlook, outlook: Outlook) -> list[str]:
    load, need = look.load, look.need
    source = "from data/index" if load.measured else "stated, with typical lengths"
    hours = (
        f"{look.hours:.1f} h at {outlook.mfu:.0%} MFU (assumed)" if look.hours else "hours: peak not known"
    )
    lines = [
        f"{look.stage}: {load.samples:,} samples ({source}), {load.tokens:,} tokens an epoch, "
        f"{load.targets / load.tokens:.1%} of them targets",
        f"  {load.steps:,} steps of {load.samples_per_step:.0f} samples in {load.packs:,} packs of "
        f"{load.tokens_per_pack:,.0f} tokens ({load.micro_steps:.1f} a GPU and step; GPUs busy {load.busy:.1%})",
        f"  {load.flops:.2e} FLOPs; {hours}; {look.weights.learned:,} weights learn, {look.weights.frozen:,} do not",
        f"  a GPU at its worst pack ({load.worst[0]:,} tokens): {_shares(need)}",
        f"  {'strategy':15}{'recompute off':>20}{'on':>12}   GiB a GPU (* as configured, ! does not fit)",
    ]
    for name in dict.fromkeys(name for name, _ in look.memory):
        cells = [_cell(look, name, on, outlook) for on in (False, True)]
        host = look.memory[name, True].host
        note = f"   + {host / GIB:.0f} GiB of main memory" if host else ""
        lines.append(f"  {name:15}{cells[0]:>20}{cells[1]:>12}{note}")
    return lines


def _cell(look: StageOutlook, name: Strategy, on: bool, outlook: Outlook) -> str:
    from videollava.train.plan import FILLED

    total = look.memory[name, on].total
    mark = "*" if (name, on) == look.chosen else ""
    return f"{mark}{total / GIB:.1f}{'!' if total > FILLED * outlook.hardware.memory else ' '}"


def _shares(need: Footprint) -> str:
    names = ("weights", "gradients", "optimizer", "activations")
    parts = ", ".join(f"{name} {getattr(need, name) / GIB:.1f}" for name in names)
    return f"{need.total / GIB:.1f} GiB ({parts})"


def _size(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def as_json(outlook: Outlook) -> str:
    """The same figures; memory as a list of choices, in bytes."""

    def plain(look: StageOutlook) -> dict[str, Any]:
        memory = [
            {"strategy": name, "recompute": on, "total": need.total, **dataclasses.asdict(need)}
            for (name, on), need in look.memory.items()
        ]
        rest = {
            key: value
            for key, value in vars(look).items()
            if key not in ("load", "weights", "memory", "chosen")
        }
        chosen = {"strategy": look.chosen[0], "recompute": look.chosen[1]}
        return {
            **rest,
            **dataclasses.asdict(look.load),
            "weights": dataclasses.asdict(look.weights),
            "chosen": chosen,
            "memory": memory,
        }

    stages = [plain(look) for look in outlook.stages]
    whole = {"hardware": dataclasses.asdict(outlook.hardware), "mfu": outlook.mfu, "stages": stages}
    return json.dumps({**whole, "disk": dataclasses.asdict(outlook.disk)}, indent=2)


def refuse_misfits(outlook: Outlook) -> None:
    """InputError with the way out where a stage does not fit as configured."""
    hardware, reasons = outlook.hardware, []
    for look in outlook.stages:
        if look.fits:
            continue
        lighter = (
            ", or finetune.adapter: qlora" if look.stage == "finetune" and not look.weights.quantized else ""
        )
        way = look.remedy or f"nothing below it fits: take more or larger GPUs{lighter}"
        reasons.append(
            f"{look.stage} needs {look.need.total / GIB:.0f} GiB a GPU, {hardware.kind} has "
            f"{hardware.memory / GIB:.0f}: {way}"
        )
    if reasons:
        raise InputError("; ".join(reasons))
