"""Stages 1 and 2 are one function with two settings: what learns, on which split, from which template.

In: data/index, models/bases/language, models/encoders, and for stage 2 models/projector. Out: stage 1 the projector
(models/projector), stage 2 the whole model (models/videollava).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from videollava.data.load.batches import Batch, Layout, Packs
from videollava.data.load.packing import Lengths, plan_epoch
from videollava.data.prepare.tables import base_split, split_names, valid_part
from videollava.data.text.bounds import bound_of
from videollava.errors import InputError
from videollava.machine import Machine, Work
from videollava.model import checkpoint
from videollava.model.attention import packed_kwargs
from videollava.model.lean import keep_less
from videollava.params import Params, Train
from videollava.tracking import input_key
from videollava.train import adapters, assemble
from videollava.train.best import Best
from videollava.train.compiled import check_compiling, compile_layers
from videollava.train.cost import Prices, step_flops
from videollava.train.engine import Engine, make_engine, peak_flops, usable
from videollava.train.engine.ranks import end_ranks
from videollava.train.features import encode_split
from videollava.train.launch.fence import check_held
from videollava.train.launch.meeting import meet
from videollava.train.launch.pulse import RESULT, during
from videollava.train.lengths import check_lengths, learned_rows, lengths_of, prices_of
from videollava.train.loop import Job, train
from videollava.train.memory import pack_bytes
from videollava.train.planning.expected import note_plan
from videollava.train.recompute import recompute_layers
from videollava.train.saving.opening import open_place
from videollava.train.saving.spent import clear_unless_awaited
from videollava.train.tally import Tally
from videollava.train.trial import worst_pack
from videollava.train.validation import Validation, plan_once

__all__ = ["choose_learners", "forward", "instruct"]


@dataclass(frozen=True)
class Kind:
    """What makes a stage: its template, and whether the language model learns too."""

    name: Literal["pretrain", "finetune"]
    template: str
    language_learns: bool


STAGES = {
    "pretrain": Kind("pretrain", "plain", False),
    "finetune": Kind("finetune", "v1", True),
}


def instruct(
    stage: Literal["pretrain", "finetune"], params: Params, workspace: Path, machine: Machine
) -> None:
    """Run stage 1 or 2 (section 3.3 of the paper), from its checkpoint if there is one."""
    begun = _begin(stage, params, workspace, machine)
    job, lengths = _make_job(begun, params, workspace)
    engine, work = begun.engine, begun.work
    if engine.first:
        _say(job, lengths)
        plans = [packs.plan for packs in job.packs]
        at = (begun.model.config, begun.settings, work, lengths, plans, job.worst, engine.device)
        loaded = not any(weight.is_meta for weight in begun.model.parameters())
        note_plan(stage, params, workspace, *at, loaded=loaded)
    train(job)
    with during(RESULT):
        if engine.ranks > 1:
            unadapted = stage == "finetune" and begun.settings.adapter == "none"
            engine.make_whole(begun.learner, learned_only=not unadapted)
    if engine.first:
        check_held()
        with during(RESULT):
            _save(stage, begun.learner, begun.tokenizer, params, workspace / "models")
        if not job.finished_at:  # one day it may go on to its end
            clear_unless_awaited(open_place(job.checkpoints, work.checkpoint_place))
    meet()
    end_ranks()


@dataclass(frozen=True)
class _Begun:
    """What a stage's job is made of: its engine, the model and what of it learns, how records are laid out."""

    kind: Kind
    settings: Train
    work: Work
    engine: Engine
    model: Any
    tokenizer: Any
    learner: Any
    groups: list[dict[str, Any]]
    layout: Layout
    features: Any


def _begin(stage: str, params: Params, workspace: Path, machine: Machine) -> _Begun:
    """Put the model together on the engine's device; frozen encoders' outputs are kept where the recipe says so."""
    kind, settings, work = STAGES[stage], usable(getattr(params, stage)), machine.work(stage)
    if work.compile:
        check_compiling(work.strategy)
    if settings.take == "best":
        _check_best(stage, settings, work, workspace / "data/index")
    engine = make_engine(settings, work)
    torch.manual_seed(params.seed)
    model, tokenizer = assemble.assemble(
        params.model,
        workspace / "models",
        settings,
        work.strategy,
        kind.language_learns,
        engine.device,
        unread=engine.reads_shards,
    )
    adapted = settings.adapter != "none" and kind.language_learns
    # Under an adapter the language model stays as it is: weights held in 4 bits cannot ask for gradients.
    groups = choose_learners(model, settings, kind.language_learns and not adapted)
    keep_less(model.model.language_model)
    recompute_layers(model.model.language_model, work)
    learner = model
    if adapted:
        learner = adapters.add_adapter(model, settings.lora)
        groups = adapters.adapter_groups(learner, settings)
    if work.compile:
        compile_layers(model)
    layout = Layout.of(
        params.model,
        model.config.text_config.vocab_size,
        template=kind.template,
        image_aspect=settings.image_aspect,
        bound=bound_of(params, stage),
    )
    features = _keep_features(model, workspace, layout, work, engine) if settings.cache_features else None
    if features is not None and engine.device.type == "cpu":
        work = work.replace(workers=0)  # nothing is decoded, and processes would take cores from training
    return _Begun(kind, settings, work, engine, model, tokenizer, learner, groups, layout, features)


def _keep_features(model: Any, workspace: Path, layout: Layout, work: Work, engine: Engine) -> Any:
    """Of both stages' media, encoded once."""
    prepared = workspace / "data/index"
    return encode_split(
        model,
        prepared,
        [split for split in split_names(prepared) if base_split(split) in STAGES],
        layout,
        workspace / "models/encoders",
        workspace / "checkpoints/features",
        work.loaders,
        engine.rank,
        engine.ranks,
    )


def _make_job(begun: _Begun, params: Params, workspace: Path) -> tuple[Job, Lengths]:
    """The job of the stage, and the lengths of its samples."""
    stage, settings, work, engine = begun.kind.name, begun.settings, begun.work, begun.engine
    prepared, config, learns = workspace / "data/index", begun.model.config, begun.kind.language_learns
    encodes = begun.features is None
    prices = prices_of(config, learns, with_encoders=encodes)
    check_lengths(prepared, stage, params, config.text_config)
    rows = learned_rows(prepared, stage, settings.media)
    lengths = lengths_of(prepared, stage, prices, rows)
    palm = lengths_of(prepared, stage, prices_of(config, learns, encodes, "palm"), rows)
    plans = [
        plan_epoch(
            lengths,
            batch_size=settings.batch_size,
            ranks=engine.ranks,
            budget=work.tokens_per_pack,
            seed=params.seed,
            epoch=epoch,
        )
        for epoch in range(settings.epochs)
    ]
    packs = [
        Packs(prepared, stage, begun.tokenizer, begun.layout, plan, begun.features, rows) for plan in plans
    ]
    tally = Tally(engine.device)
    job = Job(
        name=stage,
        model=begun.learner,
        groups=begun.groups,
        forward=partial(forward, same_calls=_same_calls(packs[0], engine.ranks), tally=tally),
        packs=packs,
        settings=settings,
        work=work,
        checkpoints=workspace / "checkpoints" / f"{stage}-{input_key(workspace, stage, used=params)[:16]}",
        seed=params.seed,
        engine=engine,
        flops=[step_flops(plan, lengths.cost, palm.cost) / engine.ranks for plan in plans],
        peak_flops=peak_flops(engine.device),
        max_dropped=params.shards.max_quarantined,
        tally=tally,
        best=Best(begun.learner) if settings.take == "best" else None,
        whole=[begun.model.model.image_tower, begun.model.model.video_tower],
        validation=_validation(prepared, stage, prices, packs[0], settings, work, engine.ranks),
        worst=worst_pack(plans, lengths, pack_bytes(config.text_config, settings, work, learns)),
    )
    return job, lengths


def forward(
    model: nn.Module,
    batch: Batch,
    share: Tensor | float,
    same_calls: tuple[str, ...] = (),
    tally: Tally | None = None,
) -> Tensor:
    """The packed row's loss: sum over its targets divided by `share`. What each target lost goes to the `tally`."""
    device = next(model.parameters()).device
    out = model(
        input_ids=batch.input_ids.to(device, non_blocking=True),
        labels=batch.labels.to(device, non_blocking=True),
        logits_to_keep=batch.targets.to(device, non_blocking=True),
        num_items_in_batch=share,
        same_calls=same_calls,
        **packed_kwargs(batch.lengths, device, batch.position_ids, batch.ends),
        **batch.media(device),
    )
    if tally is not None:
        tally.add(batch, out.target_losses)
    loss: Tensor = out.loss
    return loss


def _validation(
    prepared: Path, stage: str, prices: Prices, packs: Packs, settings: Train, work: Work, ranks: int
) -> Validation | None:
    """What is held out of the stage, where something is and the recipe asks for it."""
    split = valid_part(stage)
    if not settings.validations or split not in split_names(prepared):
        return None
    rows = learned_rows(prepared, split, settings.media)
    if not len(rows):
        return None
    plan = plan_once(lengths_of(prepared, split, prices, rows), ranks, work.tokens_per_pack)
    held_out = Packs(prepared, split, packs.tokenizer, packs.layout, plan, packs.features, rows)
    return Validation(held_out, settings.validations, work.loaders)


def _check_best(stage: str, settings: Train, work: Work, prepared: Path) -> None:
    """InputError where nothing tells which weights are the best, or they cannot be kept."""
    if not settings.validations or valid_part(stage) not in split_names(prepared):
        raise InputError(
            f"{stage}.take: best needs held-out records and a measure of them: set index.held_out and "
            f"{stage}.validations above 0, or take: last"
        )
    if work.strategy.startswith("zero"):
        raise InputError(
            f"{stage}.take: best with strategy {work.strategy}: DeepSpeed keeps no second copy of the weights: "
            "set strategy: sharded in machine.yaml, or take: last"
        )


def choose_learners(model: Any, settings: Train, language_learns: bool) -> list[dict[str, Any]]:
    """Freeze what does not learn; AdamW groups of the rest, the projector with a rate of its own if one is set."""
    model.requires_grad_(False)
    projector = model.model.multi_modal_projector.requires_grad_(True)
    rate = settings.projector_learning_rate or settings.learning_rate
    groups = [{"params": list(projector.parameters()), "lr": rate}]
    if language_learns:
        language = [model.model.language_model, model.lm_head]
        for module in language:
            module.requires_grad_(True)
        weights = {id(p): p for module in language for p in module.parameters()}
        groups.append({"params": list(weights.values()), "lr": settings.learning_rate})
    return groups


def _same_calls(packs: Packs, ranks: int) -> tuple[str, ...]:
    """Modules every rank calls whatever its pack holds: the projector, so that it always has a gradient, and with
    several ranks the encoders the data ever needs.
    """
    if ranks == 1 or packs.features is not None:
        return ("projector",)
    rows = slice(None) if packs.rows is None else packs.rows
    kinds = {kind for kind in ("image", "video") if packs.records[f"{kind}s"].to_numpy()[rows].any()}
    return ("projector", *sorted(kinds))


def _say(job: Job, lengths: Lengths) -> None:
    plan = job.packs[0].plan
    learned = sum(p.numel() for g in job.groups for p in g["params"])
    packs = (len(plan.packs) - 1) / len(plan) / plan.ranks
    busy = f", ranks busy {plan.busy(lengths.cost):.1%}" if plan.ranks > 1 else ""
    print(
        f"{job.name}: {len(lengths.tokens):,} samples, {int(lengths.tokens.sum()):,} tokens an epoch, "
        f"{job.steps} steps of {plan.samples_of(0)} samples, {packs:.1f} packs a rank and step{busy}; "
        f"{learned:,} weights learn",
        flush=True,
    )


def _save(stage: str, model: Any, tokenizer: Any, params: Params, models: Path) -> None:
    """Stage 1: the projector. Stage 2: the whole model; an adapter merged into it, and un-merged beside it."""
    if stage == "pretrain":
        assemble.save_projector(model, models / "projector")
        return
    target, adapter = models / "videollava", models / "videollava.adapter"
    shutil.rmtree(target, ignore_errors=True)
    settings = params.finetune
    if settings.adapter != "none":
        model.save_pretrained(adapter)
        # Into the base at its own precision: one of less would round what was learned away.
        base, _ = assemble.put_together(
            params.model, models, models / "projector", assemble.Types(), torch.device("cpu")
        )
        model = adapters.merge_adapter(base, adapter)
    # Frozen encoders were held in what the stage computed in; a checkpoint has one type throughout.
    dtype = model.lm_head.weight.dtype
    for kind in ("image_tower", "video_tower", "multi_modal_projector"):
        getattr(model.model, kind).to(dtype)
    checkpoint.save(model.eval(), tokenizer, target)
    if settings.adapter != "none":
        adapter.rename(target / "adapter")
