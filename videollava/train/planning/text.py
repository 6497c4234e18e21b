"""A plan as text for people and as JSON, the lines of machine.yaml it comes to, and its refusal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from videollava.errors import InputError
from videollava.train.gpus import GIB
from videollava.train.memory import Footprint
from videollava.train.planning.choice import ALIKE, DEEPSPEED, FILLED, Way, look_at, strategies_of
from videollava.train.planning.hours import DISK, LAUNCH, Spending
from videollava.train.planning.outlook import Outlook, StageOutlook, way_out
from videollava.train.planning.traffic import OVERLAP

__all__ = ["as_json", "as_text", "hours_in_words", "machine_lines", "refuse_misfits"]

SPENT = {
    "computing": "computing",
    "again": "recomputing",
    "launching": "starting kernels",
    "slowest": "waiting for the slowest rank",
    "sending": "sending",
    "checkpoints": "checkpoints",
    "validation": "validation",
    "loading": "loading",
}
PLAN_FRAMES = " (`videollava shards --plan`: how much quicker clips are read that are stored as frames)"
USUAL = (0.25, 0.35)  # MFU that is published of video language models in training


def as_text(outlook: Outlook) -> str:
    """Some twenty lines a stage."""
    hardware, disk = outlook.hardware, outlook.disk
    lines = [_hardware_line(outlook)]
    for look in outlook.stages:
        lines += ["", *_stage_lines(look, outlook)]
    sizes = f"data {_size(disk.data)}, features {_size(disk.features)}, models {_size(disk.models)}, "
    lines.append("")
    if outlook.hours:
        lines.append(f"in all: {_hours(outlook, outlook.hours)}")
    lines.append(
        f"disk: {sizes}checkpoints {_size(disk.checkpoints)}{'' if disk.measured else ' (data: assumed)'}"
    )
    if all(look.best for look in outlook.stages):
        lines += [
            "",
            "machine.yaml for this:",
            *(f"  {line}" for line in machine_lines(outlook).splitlines()),
        ]
    lines += ["", "not known here:", *(f"  - {one}" for one in _unknown(outlook))]
    if hardware.flops:
        lines += ["assumed:", *(f"  - {one}" for one in _assumed(outlook))]
    return "\n".join(lines)


def machine_lines(outlook: Outlook) -> str:
    """The best ways as machine.yaml. InputError where a stage has none."""
    ways = {look.stage: look.best for look in outlook.stages if look.best is not None}
    if len(ways) < len(outlook.stages):
        raise InputError("not every stage fits; there is no machine.yaml for this")
    hardware = outlook.hardware
    lines = [] if hardware.nodes == 1 else ["launcher: slurm", f"nodes: {hardware.nodes}"]
    lines.append(f"{'processes' if hardware.kind == 'CPU' else 'gpus'}: {hardware.here}")
    last = list(ways.values())[-1]
    shared = _values(last)
    lines += [f"{name}: {_yaml(value)}" for name, value in shared.items()]
    for stage, way in ways.items():
        own = {name: value for name, value in _values(way).items() if value != shared[name]}
        if own:
            inside = ", ".join(f"{name}: {_yaml(value)}" for name, value in own.items())
            lines += ["stages:", f"  {stage}: {{{inside}}}"]
    return "\n".join(lines)


def _values(way: Way) -> dict[str, Any]:
    names = ("strategy", "tokens_per_pack", "recompute")
    return {name: getattr(way.work, name) for name in names}


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _hardware_line(outlook: Outlook) -> str:
    hardware = outlook.hardware
    parts = [f"{hardware.memory / GIB:.0f} GiB each"]
    if hardware.gpus > 1 and hardware.kind != "CPU":
        parts.append(f"{hardware.link / 1e9:.0f} GB/s to others of a host")
        if hardware.nodes > 1:
            parts.append(f"{hardware.network / 1e9:.0f} GB/s between {hardware.nodes} hosts")
    return f"{hardware.gpus} x {hardware.kind} ({', '.join(parts)})"


def _stage_lines(look: StageOutlook, outlook: Outlook) -> list[str]:
    load, weights, way = look.case.load, look.case.weights, look.shown
    source = "from data/index" if load.measured else "stated, with typical lengths"
    lines = [
        f"{look.stage}: {load.samples:,} samples ({source}), {load.tokens:,} tokens an epoch, "
        f"{load.targets / load.tokens:.1%} of them targets",
        f"  {load.steps:,} steps of {min(load.batch_size, load.samples)} samples, {load.flops:.2e} FLOPs; "
        f"{weights.learned:,} weights learn, {weights.frozen:,} do not",
    ]
    if look.best is None:
        lines.append(f"  nothing fits; machine.yaml has {way.name}")
    else:
        lines.append(f"  best:  {way.name}{_takes(way, outlook)}")
        lines.append(f"  next:  {_next(look, outlook)}")
    lines += _details(look, outlook)
    if _values(look.configured) != _values(way):
        fits = "" if look.configured.fits else ", which does not fit"
        lines.append(
            f"  machine.yaml has {look.configured.name}{_takes(look.configured, outlook)}: "
            f"{look.configured.need.total / GIB:.1f} GiB{fits}"
        )
    return [*lines, *_table(look, outlook)]


def _takes(way: Way, outlook: Outlook) -> str:
    hours = way.spending.hours
    if not outlook.hardware.flops:
        return ""
    return f": {_hours(outlook, hours)}"


def _hours(outlook: Outlook, hours: float) -> str:
    gpu_hours = hours * outlook.hardware.gpus
    return f"{hours_in_words(hours)}, {_number(gpu_hours)} GPU-hours{_money(outlook, hours)}"


def hours_in_words(hours: float) -> str:
    """Hours, or minutes where it is less than one."""
    return f"{_number(hours)} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _money(outlook: Outlook, hours: float) -> str:
    if not outlook.price:
        return ""
    return f", {hours * outlook.hardware.gpus * outlook.price:,.0f} {outlook.currency}"


def _next(look: StageOutlook, outlook: Outlook) -> str:
    """The runner-up, and why it is not the best."""
    best, runner = look.best, look.runner
    if best is None or runner is None:
        return "no other strategy fits"
    if not outlook.hardware.flops:
        return f"{runner.name} fits too; {best.work.strategy} is the simpler one"
    more = runner.spending.total / best.spending.total - 1
    if more <= ALIKE:
        simpler = (
            f"is {more:+.1%}; it has to be {DEEPSPEED:.0%} quicker, for its checkpoints hold the steps up and fit "
            "their own number of ranks"
            if runner.work.strategy.startswith("zero")
            else f"is as quick ({more:+.1%}); {best.work.strategy} is the simpler one"
        )
        return f"{runner.name} {simpler}"
    lost = {name: getattr(runner.spending, name) - getattr(best.spending, name) for name in SPENT}
    worst = max(lost, key=lost.__getitem__)
    return (
        f"{runner.name}: {hours_in_words(runner.spending.hours)} ({more:+.0%}), "
        f"{hours_in_words(lost[worst] / 3600)} more for {SPENT[worst]}"
    )


def _details(look: StageOutlook, outlook: Outlook) -> Iterator[str]:
    way, laid = look.shown, look.shown.laid
    yield (
        f"  packs: {laid.packs:,.0f} an epoch of {laid.tokens_per_pack:,.0f} tokens, {laid.micro_steps:.1f} a GPU and "
        f"step; GPUs busy {laid.busy:.1%} ({laid.each:.1%} where each pack is waited for)"
    )
    if outlook.hardware.flops:
        yield f"  time: {_parts(way.spending)}"
    host = way.need.host * outlook.hardware.here
    offloaded = f"; and {host / GIB:,.0f} GiB of each host's main memory" if host else ""
    yield f"  memory: {_shares(way.need)} at the worst pack, {laid.worst[0]:,} tokens{offloaded}"
    if outlook.hardware.gpus > 1:
        traffic = way.traffic
        yield (
            f"  a GPU sends {_size(traffic.micro_bytes)} a pack ({traffic.micro:.2f} s beside computing) and "
            f"{_size(traffic.step_bytes)} a step ({traffic.step + traffic.after:.2f} s)"
        )
    saving = way.saving
    share = f", {way.spending.share('checkpoints'):.2%} of the time" if outlook.hardware.flops else ""
    yield (
        f"  a checkpoint: {_size(saving.size)} every {saving.minutes:.0f} min, a step waits {saving.stall:.1f} s for it"
        f"{share}; written in {saving.written:.0f} s"
    )


def _parts(spending: Spending) -> str:
    shares = {name: spending.share(name) for name in SPENT}
    return ", ".join(f"{SPENT[name]} {share:.1%}" for name, share in shares.items() if share >= 0.001)


def _shares(need: Footprint) -> str:
    names = ("weights", "gradients", "optimizer", "activations")
    parts = ", ".join(f"{name} {getattr(need, name) / GIB:.1f}" for name in names)
    return f"{need.total / GIB:.1f} GiB a GPU ({parts})"


def _table(look: StageOutlook, outlook: Outlook) -> Iterator[str]:
    work, most = look.shown.work, FILLED * outlook.hardware.memory
    yield (
        f"  {f'GiB a GPU, packs of {work.tokens_per_pack:,}':32}{'recompute off':>15}{'on':>8}   ! does not fit"
    )
    for name in strategies_of(outlook.hardware):
        ways = [look_at(look.case, work.replace(strategy=name, recompute=on)) for on in (False, True)]
        cells = [f"{way.need.total / GIB:.1f}{' ' if way.need.total <= most else '!'}" for way in ways]
        host = ways[1].need.host
        note = f"   + {host / GIB:.0f} GiB of main memory" if host else ""
        yield f"  {name:32}{cells[0]:>15}{cells[1]:>8}{note}"


def _unknown(outlook: Outlook) -> Iterator[str]:
    hours, hardware = outlook.hours, outlook.hardware
    if not hours:
        yield f"hours: the peak of {hardware.kind} is not in the table (--gpu names kinds that are)"
    for look in outlook.stages:
        load, seconds = look.case.load, look.shown.spending.steps
        if seconds and not load.cached:
            rates = zip(("images", "videos"), load.media, strict=True)
            told = [f"{_number(load.epochs * n / seconds / hardware.nodes)} {kind}" for kind, n in rates if n]
            yield (
                f"whether reading keeps up: in {look.stage} each host must read and decode {' and '.join(told)} a "
                f"second{PLAN_FRAMES if load.media[1] else ''}"
            )
    host = max(look.shown.need.host for look in outlook.stages) * hardware.here
    if host:
        yield f"whether a host has {host / GIB:.0f} GiB of main memory to offload to"
    if not all(look.case.load.measured for look in outlook.stages):
        yield "the samples' real lengths (`videollava index` measures them)"
    if any(look.case.settings.validations and not look.case.load.held_out for look in outlook.stages):
        yield "how many samples are held out for validation; none is counted"
    cached = (
        "the encoders' pass that features are kept from, "
        if any(o.case.load.cached for o in outlook.stages)
        else ""
    )
    yield f"{cached}bases, align, evaluate, fetching and cutting shards: not counted"


def _assumed(outlook: Outlook) -> Iterator[str]:
    hours, low = outlook.hours, USUAL[0]
    at = f"; at {low:.0%} some {hours_in_words(hours * outlook.mfu / low)}" if outlook.mfu > low else ""
    yield (
        f"{outlook.mfu:.0%} MFU while computing (--mfu; video language models publish {low:.0%} to {USUAL[1]:.0%})"
        f"{at}"
    )
    if outlook.hardware.gpus > 1:
        yield (
            f"links and networks of usual hosts of {outlook.hardware.kind} (--link, --network, --gpus-per-node), and "
            f"{OVERLAP:.0%} of the computing time with something beside it that is sent"
        )
    yield f"disks of {DISK / 1e9:.0f} GB/s a host, {LAUNCH * 1e3:.1f} ms of a host for each decoder layer of a pack"


def _size(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.0f} kB" if size else "0"


def as_json(outlook: Outlook) -> str:
    """The same figures: bytes, seconds and hours."""
    whole = {
        "hardware": dataclasses.asdict(outlook.hardware),
        "mfu": outlook.mfu,
        "hours": outlook.hours,
        "gpu_hours": outlook.gpu_hours,
        "cost": outlook.gpu_hours * outlook.price,
        "currency": outlook.currency,
        "stages": [_plain(look) for look in outlook.stages],
        "disk": dataclasses.asdict(outlook.disk),
        "not_known": list(_unknown(outlook)),
    }
    return json.dumps(whole, indent=2)


def _plain(look: StageOutlook) -> dict[str, Any]:
    load = {name: value for name, value in vars(look.case.load).items() if not name.startswith("_")}
    ways = {"best": look.best, "runner": look.runner, "configured": look.configured}
    return {
        **load,
        "weights": dataclasses.asdict(look.case.weights),
        **{name: _plain_way(way) if way else None for name, way in ways.items()},
    }


def _plain_way(way: Way) -> dict[str, Any]:
    parts = ("laid", "need", "traffic", "saving", "spending")
    return {
        **_values(way),
        "fits": way.fits,
        "hours": way.spending.hours,
        "memory": way.need.total,
        **{name: dataclasses.asdict(getattr(way, name)) for name in parts},
    }


def refuse_misfits(outlook: Outlook, model: Any) -> None:
    """InputError with the way out where a stage fits in no way."""
    hardware = outlook.hardware
    reasons = [
        f"{look.stage} does not fit into {hardware.gpus} x {hardware.kind} of {hardware.memory / GIB:.0f} GiB in any "
        f"way; what would: {way_out(look.case, model)}"
        for look in outlook.stages
        if look.best is None
    ]
    if reasons:
        raise InputError("; ".join(reasons))
