"""What both stages will take on N GPUs of a kind, before any GPU is held (`videollava plan`).

In: params, the machine file, and the lengths in data/index (or stated numbers of samples with typical lengths).
Out: tokens, packs, steps, FLOPs, memory of a GPU by strategy with and without recomputing activations, hours, disk;
and for a stage that cannot fit, the smallest change that makes it fit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from videollava.data.load.packing import Lengths, Plan, plan_epoch
from videollava.data.prepare.tables import load_split, split_names
from videollava.errors import InputError
from videollava.machine import Machine, Strategy, Work
from videollava.params import Params, Train
from videollava.train.cost import PEAK_TFLOPS
from videollava.train.memory import DEVICE_GIB, GIB, Footprint, Weights, footprint, pack_bytes
from videollava.train.trial import worst_pack
from videollava.train.typical import MEDIUM_BYTES, Samples, typical_lengths

__all__ = ["MFU", "Disk", "Hardware", "Outlook", "StageOutlook", "hardware_of", "plan"]

Stage = Literal["pretrain", "finetune"]
Choice = tuple[Strategy, bool]  # and whether activations are computed again
MOST_GPUS = 1_000_000
MFU = 0.40
FILLED = 0.96  # of a device's memory: more runs into the allocator's holes
CHECKPOINT_BYTES = 12  # a learned weight and its two moments, in float32


@dataclass(frozen=True)
class Hardware:
    """`gpus` devices of one kind: bytes and bf16 FLOP/s of one (0: not known, then no hours)."""

    kind: str
    gpus: int
    memory: float
    flops: float


@dataclass(frozen=True)
class Load:
    """What a stage goes through: `measured` lengths of prepared records, or typical ones of stated numbers.

    Counts are of one epoch; packs, steps and flops of all. micro_steps: packs a GPU runs in a step, on average. busy:
    share of the time in which GPUs do not wait for the slowest. worst: tokens and targets of the pack that needs most
    memory. longest: tokens of a sample.
    """

    measured: bool
    samples: int
    tokens: int
    targets: int
    packs: int
    steps: int
    micro_steps: float
    tokens_per_pack: float
    samples_per_step: float
    busy: float
    worst: tuple[int, int]
    longest: int
    flops: float


@dataclass(frozen=True)
class StageOutlook:
    """One stage. `memory` has every choice of strategy and recompute; `chosen` is the machine file's.

    fits: the chosen one does; remedy: what to change where it does not ("" where nothing helps).
    """

    stage: Stage
    load: Load
    weights: Weights
    hours: float
    chosen: Choice
    memory: Mapping[Choice, Footprint]
    fits: bool
    remedy: str

    @property
    def need(self) -> Footprint:
        """Memory of a GPU as the machine file has it."""
        return self.memory[self.chosen]


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
    """The whole plan; `mfu` is the assumption behind the hours."""

    hardware: Hardware
    mfu: float
    stages: tuple[StageOutlook, ...]
    disk: Disk


def hardware_of(kind: str, gpus: int) -> Hardware:
    """The named kind; "" is what this machine has: its GPUs, or its CPU and main memory."""
    if not 1 <= gpus <= MOST_GPUS:
        raise InputError(f"--gpus {gpus}: at least 1, at most {MOST_GPUS:,}")
    if not kind:
        return _here(gpus)
    if kind not in DEVICE_GIB:
        raise InputError(f"--gpu {kind}: not known; it may be {', '.join(DEVICE_GIB)}")
    return Hardware(kind, gpus, DEVICE_GIB[kind] * GIB, PEAK_TFLOPS[kind] * 1e12)


def _here(gpus: int) -> Hardware:
    import torch

    from videollava.train.engine import peak_flops

    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        return Hardware(about.name, gpus, about.total_memory, peak_flops(torch.device("cuda", 0)))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware("CPU", gpus, memory / gpus, 0.0)


def plan(
    params: Params,
    machine: Machine,
    workspace: Path,
    hardware: Hardware,
    samples: Mapping[str, Samples],
    mfu: float = MFU,
) -> Outlook:
    """Predict both stages. samples: stated numbers by stage, for splits that data/index lacks."""
    if not 0 < mfu <= 1:
        raise InputError(f"--mfu {mfu}: a share of the peak, such as 0.4")
    model = _shape(params, workspace)
    stages = tuple(
        _look_at(stage, params, machine.work(stage), workspace, model, hardware, samples, mfu)
        for stage in get_args(Stage)
    )
    return Outlook(hardware, mfu, stages, _disk(params, workspace, model, stages, samples))


def _shape(params: Params, workspace: Path) -> Any:
    """The model without its weights."""
    import torch

    from videollava.model.config import read_language
    from videollava.model.formats.files import read_config
    from videollava.model.video_llava import (
        VideoLlavaForConditionalGeneration,
        language_config,
        model_config,
    )

    folder = workspace / "models/bases/language"
    if (folder / "config.json").is_file():
        text = read_language(read_config(folder))
    else:
        text = language_config(params.model.language, _vocabulary(params, workspace))
    with torch.device("meta"):
        return VideoLlavaForConditionalGeneration(model_config(params.model, text))


def _vocabulary(params: Params, workspace: Path) -> int:
    folder = workspace / "data/index/tokenizer"
    if folder.is_dir():
        from transformers import AutoTokenizer

        return len(AutoTokenizer.from_pretrained(folder))
    return params.index.vocab_size if params.index.tokenizer == "train" else 32_000  # Llama 2, Vicuna


def _look_at(
    stage: Stage,
    params: Params,
    work: Work,
    workspace: Path,
    model: Any,
    hardware: Hardware,
    samples: Mapping[str, Samples],
    mfu: float,
) -> StageOutlook:
    settings: Train = getattr(params, stage)
    load = _load_of(stage, params, work, workspace, model, hardware.gpus, samples)
    weights = _weights(model, settings, stage == "finetune")
    choices: list[Choice] = [(name, on) for name in get_args(Strategy) for on in (False, True)]
    memory = {
        (name, on): footprint(
            weights,
            model.config,
            settings,
            work.replace(strategy=name, recompute=on),
            stage == "finetune",
            hardware.gpus,
            *load.worst,
        )
        for name, on in choices
    }
    chosen: Choice = (work.strategy, work.recompute)
    fits = memory[chosen].total <= FILLED * hardware.memory
    rate = hardware.flops * hardware.gpus * mfu
    hours = load.flops / rate / 3600 if rate else 0.0
    remedy = "" if fits else _remedy(stage, settings, work, load, weights, model.config, hardware)
    return StageOutlook(stage, load, weights, hours, chosen, memory, fits, remedy)


def _load_of(
    stage: Stage,
    params: Params,
    work: Work,
    workspace: Path,
    model: Any,
    gpus: int,
    samples: Mapping[str, Samples],
) -> Load:
    from videollava.train.lengths import check_lengths, lengths_of, prices_of

    settings: Train = getattr(params, stage)
    learns = stage == "finetune"
    prices = prices_of(model.config, learns, with_encoders=not settings.cache_features)
    prepared = workspace / "data/index"
    measured = (prepared / "splits" / f"{stage}.arrow").is_file()
    if measured:
        check_lengths(prepared, stage, params, model.config.text_config)
    lengths, times = (
        (lengths_of(prepared, stage, prices), 1.0)
        if measured
        else typical_lengths(stage, params, samples, prices)
    )
    laid = plan_epoch(
        lengths,
        batch_size=settings.batch_size,
        ranks=gpus,
        budget=work.tokens_per_pack,
        seed=params.seed,
        epoch=0,
    )
    _, number = worst_pack([laid], lengths, pack_bytes(model.config.text_config, settings, work, learns))
    worst = laid.pack(number)
    return Load(
        measured=measured,
        samples=round(len(lengths.tokens) * times),
        tokens=round(int(lengths.tokens.sum()) * times),
        targets=round(int(lengths.targets.sum()) * times),
        packs=round((len(laid.packs) - 1) * times * settings.epochs),
        steps=max(1, round(len(laid) * times)) * settings.epochs,
        micro_steps=(len(laid.packs) - 1) / len(laid) / gpus,
        tokens_per_pack=float(lengths.tokens.sum()) / (len(laid.packs) - 1),
        samples_per_step=_mean_samples(laid),
        busy=laid.busy(lengths.cost, each_pack=work.strategy.startswith("zero3")),
        worst=(int(lengths.tokens[worst].sum()), int(lengths.targets[worst].sum())),
        longest=int(lengths.tokens.max()),
        flops=_flops(lengths) * times * settings.epochs,
    )


def _mean_samples(laid: Plan) -> float:
    return float(np.mean([laid.samples_of(step) for step in range(max(1, len(laid) - 1))]))


def _flops(lengths: Lengths) -> float:
    return float(lengths.cost.sum())


def _weights(model: Any, settings: Train, learns: bool) -> Weights:
    from torch import nn

    from videollava.train.adapters import TARGETS

    every = sum(p.numel() for p in model.parameters())
    projector = sum(p.numel() for p in model.model.multi_modal_projector.parameters())
    if not learns:
        return Weights(projector, every - projector)
    if settings.adapter == "none":
        head = 0 if model.config.tie_word_embeddings else model.lm_head.weight.numel()
        language = sum(p.numel() for p in model.model.language_model.parameters()) + head
        return Weights(language + projector, every - language - projector)
    linear = [
        m for name, m in model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(TARGETS, name)
    ]
    low_rank = settings.lora.r * sum(m.in_features + m.out_features for m in linear)
    quantized = sum(m.weight.numel() for m in linear) if settings.adapter == "qlora" else 0
    # The projector learns as a copy beside its frozen original.
    return Weights(low_rank + projector, every, quantized)


def _remedy(
    stage: str, settings: Train, work: Work, load: Load, weights: Weights, config: Any, hardware: Hardware
) -> str:
    """The smallest change that makes the stage fit, as a line of machine.yaml; "" where none does."""
    sizes = [work.tokens_per_pack]
    while sizes[-1] // 2 >= load.longest:
        sizes.append(sizes[-1] // 2)
    order = get_args(Strategy)[2::-1] + get_args(Strategy)[3:]
    # First what costs least speed: recomputing, then smaller packs, then the next strategy.
    for name in order[order.index(work.strategy) :]:
        for size in sizes:
            for on in sorted({work.recompute, True}):
                changed = work.replace(strategy=name, recompute=on, tokens_per_pack=size)
                tokens, targets = (round(n * min(1.0, size / load.worst[0])) for n in load.worst)
                need = footprint(
                    weights, config, settings, changed, stage == "finetune", hardware.gpus, tokens, targets
                )
                if need.total <= FILLED * hardware.memory:
                    return f"{_difference(stage, work, changed)} ({need.total / GIB:.0f} GiB)"
    return ""


def _difference(stage: str, work: Work, changed: Work) -> str:
    names = ("recompute", "tokens_per_pack", "strategy")
    pairs = [(name, getattr(work, name), getattr(changed, name)) for name in names]
    line = ", ".join(f"{name}: {str(new).lower()}" for name, old, new in pairs if old != new)
    return f"in machine.yaml, stages: {{{stage}: {{{line}}}}}"


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
        shards = float(sum(file.stat().st_size for file in prepared.rglob("*") if file.is_file()))
    else:
        counts = {
            kind: sum(getattr(stated, f"{kind}s") for stated in samples.values()) for kind in MEDIUM_BYTES
        }
        shards = sum(counts[kind] * size for kind, size in MEDIUM_BYTES.items())
    cached = any(getattr(params, look.stage).cache_features for look in stages)
    tokens = {"image": params.model.image_tokens, "video": params.model.video_tokens}
    features = 2.0 * params.model.vision.width * sum(counts[kind] * tokens[kind] for kind in tokens)
    every = sum(p.numel() for p in model.parameters())
    return Disk(
        data=2 * shards,
        features=features if cached else 0.0,
        # The parts it is made of, and the whole (what learned is float32 there, without DeepSpeed).
        models=4.0 * every
        + (0.0 if stages[-1].chosen[0].startswith("zero") else 2.0 * stages[-1].weights.learned),
        # The ones kept, and the one being written.
        checkpoints=(KEEP + 1) * CHECKPOINT_BYTES * float(sum(look.weights.learned for look in stages)),
        measured=measured,
    )


def _count_media(prepared: Path) -> dict[str, int]:
    used = {"image": 0, "video": 0}
    for split in set(split_names(prepared)) & set(get_args(Stage)):
        table = load_split(prepared, split)
        for kind in used:
            used[kind] += int(table[f"{kind}s"].to_numpy().sum())
    return used
