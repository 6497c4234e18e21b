"""What a stage goes through, and how packs of a size lie on so many ranks: from data/index, or of stated samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from videollava.data.load.packing import Lengths, Plan, plan_epoch
from videollava.data.prepare.tables import load_split, split_names, valid_part
from videollava.params import Params, Train
from videollava.train.lengths import check_lengths, learned_rows, lengths_of, prices_of
from videollava.train.planning.typical import Samples, typical_lengths
from videollava.train.trial import worst_pack

__all__ = ["Laid", "Load", "Stage", "load_of"]

Stage = Literal["pretrain", "finetune"]
LAID_OUT = 40_000  # samples that are packed to see how packs lie; more are in proportion


@dataclass(frozen=True)
class Laid:
    """Packs of one size on so many ranks. packs: of an epoch, empty ones too. micro_steps: packs a rank runs in a
    step. busy: share of the time in which ranks do not wait for the slowest one, where they meet at a step's end, and
    each: where they do after every pack. worst: tokens and targets of the pack that needs most memory.
    """

    packs: float
    micro_steps: float
    tokens_per_pack: float
    busy: float
    each: float
    worst: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Load:
    """One stage's samples. measured: from data/index, else typical lengths of stated numbers.

    samples, tokens, targets: of one epoch; steps and FLOPs of all. language: of the FLOPs, one forward pass of the
    decoder layers. held_out: FLOPs of asking the held-out samples once. media: images and videos of an epoch.
    """

    stage: Stage
    measured: bool
    samples: int
    tokens: int
    targets: int
    media: tuple[float, float]
    epochs: int
    batch_size: int
    steps: int
    longest: int
    flops: float
    language: float
    held_out: float
    cached: bool
    _lengths: Lengths
    _seed: int

    def lay_out(self, ranks: int, size: int, weights: tuple[float, float]) -> Laid:
        """Pack it. weights: bytes that a token and a target take."""
        plan, lengths = _lay_out(self, ranks, size)
        _, number = worst_pack([plan], lengths, weights)
        worst, packs = plan.pack(number), len(plan.packs) - 1
        return Laid(
            packs=packs * self.samples / len(lengths.tokens),
            micro_steps=packs / len(plan) / ranks,
            tokens_per_pack=float(lengths.tokens.sum()) / packs,
            busy=_busy(self, ranks, size, False),
            each=_busy(self, ranks, size, True),
            worst=(int(lengths.tokens[worst].sum()), int(lengths.targets[worst].sum())),
        )


def load_of(
    stage: Stage, params: Params, workspace: Path, model: Any, samples: Mapping[str, Samples]
) -> Load:
    """The load of a stage that has epochs. InputError where neither data/index nor `samples` has it."""
    settings: Train = getattr(params, stage)
    prices = prices_of(model.config, stage == "finetune", with_encoders=not settings.cache_features)
    prepared = workspace / "data/index"
    measured = (prepared / "splits" / f"{stage}.arrow").is_file()
    if measured:
        check_lengths(prepared, stage, params, model.config.text_config)
        rows = learned_rows(prepared, stage, settings.media)
        lengths, times = lengths_of(prepared, stage, prices, rows), 1.0
        table = load_split(prepared, stage)
        media = tuple(float(table[f"{kind}s"].to_numpy()[rows].sum()) for kind in ("image", "video"))
    else:
        lengths, times = typical_lengths(stage, params, samples, prices)
        media = (float(samples[stage].images), float(samples[stage].videos))
    count = round(len(lengths.tokens) * times)
    length = lengths.tokens.astype(np.float64)
    forward = float((prices.token * length + prices.square * length**2).sum())
    return Load(
        stage=stage,
        measured=measured,
        samples=count,
        tokens=round(int(lengths.tokens.sum()) * times),
        targets=round(int(lengths.targets.sum()) * times),
        media=(media[0], media[1]),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        steps=math.ceil(count / settings.batch_size) * settings.epochs,
        longest=int(lengths.tokens.max()),
        flops=float(lengths.cost.sum()) * times * settings.epochs,
        language=forward * times * settings.epochs,
        held_out=_held_out(prepared, stage, settings, prices),
        cached=settings.cache_features,
        _lengths=lengths,
        _seed=params.seed,
    )


def _held_out(prepared: Path, stage: Stage, settings: Train, prices: Any) -> float:
    """FLOPs of the held-out samples' forward pass; 0 where nothing is held out, or nobody knows."""
    split = valid_part(stage)
    if not settings.validations or not prepared.is_dir() or split not in split_names(prepared):
        return 0.0
    # Prices have a backward pass of twice (or once) the forward's, and the encoders without one.
    rows = learned_rows(prepared, split, settings.media)
    return float(lengths_of(prepared, split, prices, rows).cost.sum()) / prices.backward if len(rows) else 0.0


@lru_cache(maxsize=1024)
def _lay_out(load: Load, ranks: int, size: int) -> tuple[Plan, Lengths]:
    lengths = load._lengths
    whole_steps = max(1, LAID_OUT // load.batch_size) * load.batch_size
    if len(lengths.tokens) > whole_steps:
        # As an epoch would have them: the first steps of a permutation.
        drawn = np.random.default_rng([load._seed, 0]).permutation(len(lengths.tokens))[:whole_steps]
        lengths = Lengths(lengths.tokens[drawn], lengths.targets[drawn], lengths.cost[drawn])
    plan = plan_epoch(lengths, batch_size=load.batch_size, ranks=ranks, budget=size, seed=load._seed, epoch=0)
    return plan, lengths


@lru_cache(maxsize=1024)
def _busy(load: Load, ranks: int, size: int, each_pack: bool) -> float:
    plan, lengths = _lay_out(load, ranks, size)
    return plan.busy(lengths.cost, each_pack)
