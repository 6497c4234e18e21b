"""What both stages will take on N GPUs of a kind, before any GPU is held (`videollava plan`).

In: params, the machine file, and the lengths in data/index (or stated numbers of samples with typical lengths).
Out: for each stage the quickest way that fits, the next one, what machine.yaml has, and what all this takes: hours,
memory, what is sent, checkpoints, disk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from videollava.data.acquire.located import MANIFEST, RAW
from videollava.data.media.stored import nominal_size
from videollava.data.prepare.tables import load_split, split_names
from videollava.errors import InputError
from videollava.machine import Machine
from videollava.params import Params, Train
from videollava.train.planning.choice import Case, Way, choose, look_at
from videollava.train.planning.hardware import Hardware
from videollava.train.planning.load import Stage, load_of
from videollava.train.planning.shape import model_of, weights_of
from videollava.train.planning.typical import MEDIUM_BYTES, Samples

__all__ = [
    "MFU",
    "Disk",
    "Outlook",
    "StageOutlook",
    "cases_of",
    "check_asked",
    "look_ahead",
    "plan",
    "way_out",
]

MFU = 0.40
MORE = 64  # times as many GPUs, at most, that are looked at where a stage fits no fewer


@dataclass(frozen=True)
class StageOutlook:
    """One stage. best: the quickest way that fits (None: none does); runner: the quickest of another strategy;
    configured: machine.yaml's.
    """

    case: Case
    best: Way | None
    runner: Way | None
    configured: Way

    @property
    def stage(self) -> Stage:
        """Its name."""
        return self.case.load.stage

    @property
    def shown(self) -> Way:
        """The best way, or what is configured where none fits."""
        return self.best or self.configured


@dataclass(frozen=True)
class Disk:
    """Bytes: raw archives and prepared shards, cached features, models, training checkpoints."""

    data: float
    features: float
    models: float
    checkpoints: float
    measured: bool


@dataclass(frozen=True)
class Outlook:
    """The whole plan; `mfu` is the assumption behind the hours, price of a GPU's hour (0: not known)."""

    hardware: Hardware
    mfu: float
    price: float
    currency: str
    stages: tuple[StageOutlook, ...]
    disk: Disk

    @property
    def hours(self) -> float:
        """Of all stages; 0 where the device's peak is not known."""
        return sum(look.shown.spending.hours for look in self.stages) if self.hardware.flops else 0.0

    @property
    def gpu_hours(self) -> float:
        """Of all stages on all GPUs."""
        return self.hours * self.hardware.gpus


def plan(
    params: Params,
    machine: Machine,
    workspace: Path,
    hardware: Hardware,
    samples: Mapping[str, Samples],
    mfu: float = MFU,
    price: float | None = None,
) -> Outlook:
    """Look at every stage that is trained. samples: stated numbers by stage, for splits that data/index lacks. price:
    of a GPU's hour, in the place of the machine file's.
    """
    check_asked(mfu, price)
    model = model_of(params, workspace)
    cases = cases_of(params, machine, workspace, model, hardware, samples, mfu)
    stages = tuple(look_ahead(case) for case in cases)
    return Outlook(
        hardware,
        mfu,
        machine.cost.per_gpu_hour if price is None else price,
        machine.cost.currency,
        stages,
        _disk(params, workspace, model, stages, samples),
    )


def check_asked(mfu: float, price: float | None) -> None:
    """InputError where an assumption is none."""
    if not 0 < mfu <= 1:
        raise InputError(f"--mfu {mfu}: a share of the peak, such as 0.4")
    if price is not None and not 0 <= price < math.inf:
        raise InputError(f"--price {price}: what a GPU costs an hour, 0 or more")


def cases_of(
    params: Params,
    machine: Machine,
    workspace: Path,
    model: Any,
    hardware: Hardware,
    samples: Mapping[str, Samples],
    mfu: float,
) -> list[Case]:
    """The stages that have epochs. InputError where there is none."""
    cases = []
    for stage in get_args(Stage):
        settings: Train = getattr(params, stage)
        if not settings.epochs:
            continue
        load = load_of(stage, params, workspace, model, samples)
        weights = weights_of(model, settings, stage == "finetune")
        cases.append(Case(load, weights, model.config, settings, machine.work(stage), hardware, mfu))
    if not cases:
        raise InputError("params.yaml: pretrain.epochs and finetune.epochs are 0; there is nothing to plan")
    return cases


def look_ahead(case: Case) -> StageOutlook:
    """One stage's ways."""
    found = choose(case)
    best, runner = found or (None, None)
    return StageOutlook(case, best, runner, look_at(case, case.work))


def way_out(case: Case, model: Any) -> str:
    """What makes a stage fit that fits in no way: more GPUs, or a lighter adapter."""
    ways = []
    for times in (2**n for n in range(1, MORE.bit_length())):
        more = replace(case, hardware=replace(case.hardware, gpus=case.hardware.gpus * times))
        if found := choose(more):
            ways.append(f"{more.hardware.gpus} GPUs ({found[0].name})")
            break
    lighter = {"none": ("lora", "qlora"), "lora": ("qlora",)}.get(case.settings.adapter, ())
    for adapter in lighter if case.learns else ():
        settings = case.settings.replace(adapter=adapter)
        light = replace(case, settings=settings, weights=weights_of(model, settings, True))
        if found := choose(light):
            ways.append(f"finetune.adapter: {adapter} ({found[0].need.total / 2**30:.0f} GiB)")
            break
    return ", or ".join(ways) or "no number of these GPUs does: take larger ones"


def _disk(
    params: Params,
    workspace: Path,
    model: Any,
    stages: tuple[StageOutlook, ...],
    samples: Mapping[str, Samples],
) -> Disk:
    from videollava.train.saving.places import KEEP

    prepared = workspace / "data/index"
    measured = (prepared / "media.arrow").is_file()
    if measured:
        counts = _count_media(prepared)
        shards = float(sum(shard["size"] for shard in json.loads((prepared / "shards.json").read_text())))
        fetched = _fetched_bytes(workspace) or shards
    else:
        counts = {
            kind: sum(getattr(stated, f"{kind}s") for stated in samples.values()) for kind in MEDIUM_BYTES
        }
        fetched, shards = (
            sum(counts[kind] * size for kind, size in sizes.items())
            for sizes in (MEDIUM_BYTES, MEDIUM_BYTES | {"video": _clip_bytes(params)})
        )
    cached = any(look.case.settings.cache_features for look in stages)
    tokens = {"image": params.model.image_tokens, "video": params.model.video_tokens}
    features = 2.0 * params.model.vision.width * sum(counts[kind] * tokens[kind] for kind in tokens)
    every = sum(p.numel() for p in model.parameters())
    last = stages[-1]
    whole = 2.0 * last.case.weights.learned if not last.shown.work.strategy.startswith("zero") else 0.0
    return Disk(
        data=fetched + shards,
        features=features if cached else 0.0,
        # The parts it is made of, and the whole (what learned is float32 there, without DeepSpeed).
        models=4.0 * every + whole,
        # The ones kept, and the one being written; a finished stage's are removed.
        checkpoints=(KEEP + 1) * max(look.shown.saving.size for look in stages),
        measured=measured,
    )


def _fetched_bytes(workspace: Path) -> float:
    """Of the sources that are fetched here; 0 where none is."""
    fetched = [json.loads(file.read_text()) for file in (workspace / RAW).glob(f"*/{MANIFEST}")]
    return float(sum(entry["size"] for held in fetched for entry in held["files"].values()))


def _clip_bytes(params: Params) -> float:
    """Of a clip in the shards."""
    frames = params.shards.frames
    stored = nominal_size(frames.count, frames.size, frames.form)
    return float(stored) if frames.count else MEDIUM_BYTES["video"]


def _count_media(prepared: Path) -> dict[str, int]:
    used = {"image": 0, "video": 0}
    for split in set(split_names(prepared)) & set(get_args(Stage)):
        table = load_split(prepared, split)
        for kind in used:
            used[kind] += int(table[f"{kind}s"].to_numpy().sum())
    return used
