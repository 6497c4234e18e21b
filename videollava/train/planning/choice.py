"""The ways to compute a stage on given devices: which fit, and the quickest of them.

A way is a strategy, a pack size, and how many layers compute their activations again: the fewest with which it fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from videollava.machine import Strategy, Work
from videollava.params import Train
from videollava.train.memory import Footprint, Weights, footprint, pack_bytes
from videollava.train.planning.hardware import Hardware
from videollava.train.planning.hours import Saving, Spending, saving_of, spend
from videollava.train.planning.load import Laid, Load
from videollava.train.planning.traffic import Traffic, traffic_of

__all__ = ["ALIKE", "DEEPSPEED", "FILLED", "Case", "Way", "choose", "look_at", "strategies_of", "ways_of"]

FILLED = 0.96  # of a device's memory: more runs into the allocator's holes
ALIKE = 0.02  # ways whose hours differ by less are as quick as each other: what is simpler counts
# DeepSpeed's checkpoints hold the steps up and fit as many ranks as wrote them: it has to be so much quicker.
DEEPSPEED = 0.10
# Of ways that are as quick: the default pack first (larger ones leave less room, smaller ones have small matrices).
SIZES = (8192, 16384, 32768, 4096, 65536, 2048)
STRATEGIES: Sequence[Strategy] = get_args(Strategy)


@dataclass(frozen=True)
class Case:
    """A stage on devices: all that its ways share. `config`: of the whole model; `work`: as machine.yaml has it."""

    load: Load
    weights: Weights
    config: Any
    settings: Train
    work: Work
    hardware: Hardware
    mfu: float

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return int(self.config.text_config.num_hidden_layers)

    @property
    def learns(self) -> bool:
        """Whether the language model does."""
        return self.load.stage == "finetune"


@dataclass(frozen=True)
class Way:
    """One way, what it needs and what it takes."""

    work: Work
    laid: Laid
    need: Footprint
    fits: bool
    traffic: Traffic
    saving: Saving
    spending: Spending

    @property
    def name(self) -> str:
        """In a few words."""
        return f"{self.work.strategy}, packs of {self.work.tokens_per_pack:,}, {self.again}"

    @property
    def again(self) -> str:
        """How much is recomputed, in words."""
        if self.work.recompute is True:
            return "all layers recomputed"
        return f"{self.work.recompute} layers recomputed" if self.work.recompute else "nothing recomputed"


def choose(case: Case) -> tuple[Way, Way | None] | None:
    """The quickest way that fits, and the next quickest of another strategy; None where none fits."""
    fitting = [way for way in ways_of(case) if way.fits]
    if not fitting:
        return None
    best = _first(fitting)
    others = [way for way in fitting if way.work.strategy != best.work.strategy]
    return best, _first(others) if others else None


def ways_of(case: Case) -> list[Way]:
    """Of every strategy and pack size the one with the fewest layers recomputed; where none fits, with all."""
    sizes = [size for size in sorted(SIZES) if size >= case.load.longest] or [case.load.longest]
    found = []
    for size in sizes:
        found += [_lightest(case, name, size) for name in strategies_of(case.hardware)]
        if found[-1].laid.micro_steps <= 1 and size >= SIZES[0]:  # larger packs lie as these do
            break
    return found


def strategies_of(hardware: Hardware) -> list[Strategy]:
    """Those that are not another one's double: one GPU holds all in any case, and one host is all hosts."""
    doubles = {"sharded-node"} if hardware.nodes == 1 else set()
    doubles |= {"replicated"} if hardware.gpus == 1 else set()
    return [name for name in STRATEGIES if name not in doubles]


def look_at(case: Case, work: Work) -> Way:
    """What one way needs and takes."""
    hardware = case.hardware
    laid = case.load.lay_out(
        hardware.gpus,
        work.tokens_per_pack,
        pack_bytes(case.config.text_config, case.settings, work, case.learns),
    )
    need = footprint(
        case.weights,
        case.config,
        case.settings,
        work,
        case.learns,
        hardware.gpus,
        *laid.worst,
        per_node=hardware.here,
    )
    compute = 2 if case.settings.precision == "bf16" else 4
    traffic = traffic_of(work.strategy, case.weights, case.layers, compute, hardware)
    saving = saving_of(work, case.weights, hardware)
    spending = spend(
        case.load,
        laid,
        work,
        case.weights,
        case.layers,
        hardware,
        traffic,
        saving,
        case.mfu,
        case.settings.validations,
    )
    fits = need.total <= FILLED * hardware.memory
    return Way(work, laid, need, fits, traffic, saving, spending)


def _lightest(case: Case, name: Strategy, size: int) -> Way:
    # compile is no strategy of ours to choose; ZeRO-3 refuses it.
    compiled = case.work.compile and not name.startswith("zero3")
    asked = case.work.replace(strategy=name, tokens_per_pack=size, recompute=False, compile=compiled)
    way = look_at(case, asked)
    low, high = 0, case.layers
    while not way.fits and low < high:  # the fewest layers: memory falls with each
        middle = (low + high) // 2
        tried = look_at(case, asked.replace(recompute=_count(middle, case.layers)))
        low, high = (low, middle) if tried.fits else (middle + 1, high)
    return way if way.fits else look_at(case, asked.replace(recompute=_count(low, case.layers)))


def _count(layers: int, of: int) -> bool | int:
    return True if layers == of else layers or False


def _first(ways: Sequence[Way]) -> Way:
    """The quickest; of those as quick the simplest."""
    least = min(map(_weighed, ways))
    return min((way for way in ways if _weighed(way) <= least * (1 + ALIKE)), key=_order)


def _weighed(way: Way) -> float:
    return way.spending.total * (1 + DEEPSPEED if way.work.strategy.startswith("zero") else 1)


def _order(way: Way) -> tuple[int, int, int, float]:
    work = way.work
    again = 2 if work.recompute is True else int(bool(work.recompute))
    size = SIZES.index(work.tokens_per_pack) if work.tokens_per_pack in SIZES else len(SIZES)
    return STRATEGIES.index(work.strategy), again, size, way.spending.total
