"""The same stages on 1, 2, 4, .. 1,024 GPUs: how long, at what price, what bounds each, and where more stop paying."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videollava.errors import InputError
from videollava.machine import Machine
from videollava.params import Params
from videollava.train.planning.choice import Case, Way, choose
from videollava.train.planning.hardware import Hardware
from videollava.train.planning.outlook import MFU, cases_of, check_asked
from videollava.train.planning.shape import model_of
from videollava.train.planning.typical import Samples

__all__ = ["MOST", "Row", "Scale", "look_far", "scale_json", "scale_text"]

MOST = 1024
BOUND = 0.85  # of the time computes what must be computed: then nothing else bounds


@dataclass(frozen=True)
class Row:
    """So many GPUs. ways: the best of each stage (none: nothing fits); efficiency: what a GPU-hour does, as a share of
    what it does at best.
    """

    gpus: int
    hours: float
    ways: tuple[Way, ...]
    efficiency: float

    @property
    def gpu_hours(self) -> float:
        """Of all."""
        return self.hours * self.gpus


@dataclass(frozen=True)
class Scale:
    """The table; worth: the least efficiency that pays."""

    hardware: Hardware
    mfu: float
    price: float
    currency: str
    worth: float
    stages: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def enough(self) -> Row | None:
        """The last one that pays."""
        paying = [row for row in self.rows if row.ways and row.efficiency >= self.worth]
        return paying[-1] if paying else None


def look_far(
    params: Params,
    machine: Machine,
    workspace: Path,
    hardware: Hardware,
    samples: Mapping[str, Samples],
    mfu: float = MFU,
    price: float | None = None,
    worth: float = 0.7,
) -> Scale:
    """Choose the best ways for each number of GPUs. InputError where hours cannot be known, or nothing ever fits."""
    if not 0 < worth < 1:
        raise InputError(f"--worth {worth}: a share of what a GPU-hour does at best, such as 0.7")
    check_asked(mfu, price)
    if not hardware.flops:
        raise InputError("--scale needs hours: name a kind with --gpu, such as --gpu H100")
    model = model_of(params, workspace)
    cases = cases_of(params, machine, workspace, model, hardware, samples, mfu)
    found = [(count, _choose_all(cases, count)) for count in _counts()]
    least = min((count * _hours(ways) for count, ways in found if ways), default=0.0)
    if not least:
        raise InputError(f"no number of {hardware.kind} up to {MOST:,} fits: see `videollava plan` for one")
    rows = [
        Row(count, _hours(ways), ways, least / (count * _hours(ways)) if ways else 0.0)
        for count, ways in found
    ]
    stages = tuple(case.load.stage for case in cases)
    paid = machine.cost.per_gpu_hour if price is None else price
    return Scale(hardware, mfu, paid, machine.cost.currency, worth, stages, tuple(rows))


def _counts() -> Sequence[int]:
    return [2**n for n in range(MOST.bit_length())]


def _choose_all(cases: Sequence[Case], count: int) -> tuple[Way, ...]:
    ways = []
    for case in cases:
        found = choose(dataclasses.replace(case, hardware=dataclasses.replace(case.hardware, gpus=count)))
        if found is None:
            return ()
        ways.append(found[0])
    return tuple(ways)


def _hours(ways: Sequence[Way]) -> float:
    return sum(way.spending.hours for way in ways)


def bound_of(way: Way) -> str:
    """What keeps the way from being quicker: compute, communication, memory (layers are recomputed), batch (too few
    samples a step for the ranks) or start (loading and the like).
    """
    spent = way.spending
    if spent.share("computing") >= BOUND:
        return "compute"
    lost = {
        "memory": spent.again,
        "communication": spent.sending,
        "batch": spent.slowest + spent.launching,
        "start": spent.loading + spent.checkpoints + spent.validation,
    }
    return max(lost, key=lost.__getitem__)


def scale_text(scale: Scale) -> str:
    """A line for each number of GPUs."""
    cost = f"{scale.currency:>10}" if scale.price else ""
    heads = "".join(f"   {name + ': way (bound by)':46}" for name in scale.stages)
    lines = [
        f"{scale.hardware.kind}, {scale.hardware.per_node} a host, {scale.mfu:.0%} MFU assumed",
        "",
        f"{'GPUs':>5}{'hours':>9}{'GPU-hours':>11}{cost}{'efficiency':>12}{heads}".rstrip(),
    ]
    for row in scale.rows:
        if not row.ways:
            lines.append(f"{row.gpus:>5,}{'':>9}{'':>11}{'':>{len(cost)}}{'':>12}   memory: nothing fits")
            continue
        money = f"{row.gpu_hours * scale.price:>10,.0f}" if scale.price else ""
        ways = "".join(f"   {f'{_short(way)} ({bound_of(way)})':46}" for way in row.ways)
        lines.append(
            f"{row.gpus:>5,}{row.hours:>9.1f}{row.gpu_hours:>11,.0f}{money}{row.efficiency:>12.0%}{ways}".rstrip()
        )
    return "\n".join([*lines, "", _verdict(scale)])


def _short(way: Way) -> str:
    again = way.work.recompute
    told = ", all recomputed" if again is True else f", {again} recomputed" if again else ""
    return f"{way.work.strategy} {way.work.tokens_per_pack:,}{told}"


def _verdict(scale: Scale) -> str:
    enough = scale.enough
    if enough is None:
        return f"No number of GPUs does {scale.worth:.0%} of the best."
    after = next((row for row in scale.rows if row.gpus > enough.gpus), None)
    if after is None:
        return f"Up to {enough.gpus:,} GPUs pay: a GPU-hour does {enough.efficiency:.0%} of what it does at best."
    slowest = max(after.ways, key=lambda way: way.spending.total - way.spending.computing)
    return (
        f"More than {enough.gpus:,} GPUs stop paying: of {after.gpus:,} a GPU-hour does {after.efficiency:.0%} of what "
        f"it does at best (below {scale.worth:.0%}, --worth), bound by {bound_of(slowest)}."
    )


def scale_json(scale: Scale) -> str:
    """The same figures."""
    rows = [
        {
            "gpus": row.gpus,
            "hours": row.hours,
            "gpu_hours": row.gpu_hours,
            "cost": row.gpu_hours * scale.price,
            "efficiency": row.efficiency,
            "stages": {
                stage: {
                    "strategy": way.work.strategy,
                    "tokens_per_pack": way.work.tokens_per_pack,
                    "recompute": way.work.recompute,
                    "hours": way.spending.hours,
                    "bound": bound_of(way),
                }
                for stage, way in zip(scale.stages, row.ways, strict=False)
            },
        }
        for row in scale.rows
    ]
    enough = scale.enough.gpus if scale.enough else None
    return json.dumps(
        {"gpu": scale.hardware.kind, "worth": scale.worth, "enough": enough, "rows": rows}, indent=2
    )
