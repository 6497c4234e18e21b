"""What the plan says of a stage that is about to run, on the hardware it runs on: noted, to stand beside what comes.

Hours only where the device's peak is known (GPUs of the table); memory everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from videollava.data.load.packing import Lengths, Plan
from videollava.machine import Work
from videollava.params import Params, Train
from videollava.tracking import log_metrics
from videollava.train.gpus import GIB
from videollava.train.measure import peak_memory
from videollava.train.memory import footprint
from videollava.train.planning.hardware import Hardware, hardware_of
from videollava.train.planning.hours import saving_of, spend
from videollava.train.planning.load import Laid, Stage, load_of
from videollava.train.planning.outlook import MFU
from videollava.train.planning.shape import shape_of, weights_of
from videollava.train.planning.traffic import traffic_of

__all__ = ["expect", "note_plan"]


def note_plan(*arguments: Any, **named: Any) -> dict[str, float]:
    """`expect`, into the journal as planned_<name>, and in a line where there are hours."""
    planned = expect(*arguments, **named)
    log_metrics(0, **{f"planned_{name}": value for name, value in planned.items()})
    if "hours" in planned:
        print(
            f"planned: {planned['hours']:.1f} GPU-hours, {planned['tokens_per_second']:,.0f} tokens/s "
            f"({planned['mfu']:.0%} MFU), {planned['peak_memory_gib']:.1f} GiB",
            flush=True,
        )
    return planned


def expect(
    stage: Stage,
    params: Params,
    workspace: Path,
    config: Any,
    settings: Train,
    work: Work,
    lengths: Lengths,
    plans: Sequence[Plan],
    worst: tuple[int, int],
    device: torch.device,
    loaded: bool = True,
) -> dict[str, float]:
    """hours (of all ranks), tokens_per_second, mfu, peak_memory_gib. config: the model's; worst: epoch and number of
    the pack that needs most memory; loaded: whether the process holds the weights already.
    """
    model, learns, ranks = shape_of(config), stage == "finetune", plans[0].ranks
    weights = weights_of(model, settings, learns)
    laid = _lay(plans, lengths, worst)
    need = footprint(weights, config, settings, work, learns, ranks, *laid.worst, per_node=work.per_node)
    if device.type != "cuda":
        held = peak_memory(device) * GIB + (0 if loaded else need.weights)
        rest = need.gradients + need.optimizer + need.activations + need.host
        return {"peak_memory_gib": (held + rest) / GIB}
    hardware = hardware_of("", ranks, work.per_node)
    known = {"peak_memory_gib": need.total / GIB}
    return known | _speed(stage, params, workspace, model, settings, work, laid, weights, hardware, config)


def _speed(
    stage: Stage,
    params: Params,
    workspace: Path,
    model: Any,
    settings: Train,
    work: Work,
    laid: Laid,
    weights: Any,
    hardware: Hardware,
    config: Any,
) -> dict[str, float]:
    if not hardware.flops:
        return {}
    load = load_of(stage, params, workspace, model, {})
    layers = config.text_config.num_hidden_layers
    traffic = traffic_of(work.strategy, weights, layers, 2 if settings.precision == "bf16" else 4, hardware)
    saving = saving_of(work, weights, hardware)
    spent = spend(load, laid, work, weights, layers, hardware, traffic, saving, MFU, settings.validations)
    return {
        "hours": spent.hours * hardware.gpus,
        "tokens_per_second": load.tokens * load.epochs / spent.steps,
        "mfu": MFU * spent.computing / spent.steps,
    }


def _lay(plans: Sequence[Plan], lengths: Lengths, worst: tuple[int, int]) -> Laid:
    """How the packs of this run really lie."""
    epoch, number = worst
    plan, heaviest = plans[0], plans[epoch].pack(number)
    packs = len(plan.packs) - 1
    return Laid(
        packs=packs,
        micro_steps=packs / len(plan) / plan.ranks,
        tokens_per_pack=float(lengths.tokens.sum()) / packs,
        busy=plan.busy(lengths.cost),
        each=plan.busy(lengths.cost, each_pack=True),
        worst=(int(lengths.tokens[heaviest].sum()), int(lengths.targets[heaviest].sum())),
    )
