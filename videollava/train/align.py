"""LanguageBind: encoders bound to the language space by contrastive learning (arXiv 2310.01852, section 3).

In: the `align` split (media with captions), the tokenizer. Out: models/encoders/KIND. As in LanguageBind the language
encoder comes first and is then frozen: here a small one learns to tell captions apart, each from two views that lack
different words. The image encoder learns against it, then, begun from the image encoder, that of video and those of
`align.towers` (depth, thermal, audio): all end in one space before any projector sees them. Where `align.train` is
false the encoders of `bases.model`, or those named in `bases` and `align.towers`, are taken as they are.

`align.spaces: separate` is the control of the paper's claim: the video encoder's whole line (language encoder, image
encoder, video encoder) learns by itself, from the same initial vision weights, pairs, order and steps, but against a
language encoder that began and was taught otherwise.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videollava.data.load.batches import Layout
from videollava.data.load.pairs import (
    Captions,
    Pairs,
    captions_of,
    decode_all,
    plan_pairs,
    rows_of,
)
from videollava.data.modalities import KINDS
from videollava.data.prepare.tables import load_split
from videollava.errors import InputError
from videollava.machine import DEFAULTS, Machine, Work
from videollava.model import checkpoint
from videollava.model.attention import encoder_attention
from videollava.model.encoders import LanguageBind
from videollava.origin import Pins
from videollava.params import Align, Params, Train
from videollava.tracking import input_key
from videollava.train.contrast.asking import Reading, held_out_split, plan_validation, with_asked
from videollava.train.contrast.beginnings import (
    APART,
    LEARNED,
    POSITIONS,
    SEPARATE,
    begin_apart,
    begin_image,
    begin_other,
    begin_video,
    check_lora,
    take_language,
)
from videollava.train.contrast.learners import add_lora, choose_groups, merge_lora
from videollava.train.contrast.parts import Part, parts_of, text_settings
from videollava.train.contrast.steps import Contrast
from videollava.train.engine import Engine, make_engine
from videollava.train.launch.fence import check_held
from videollava.train.launch.meeting import meet
from videollava.train.learned import check_learned
from videollava.train.loop import Job, train
from videollava.train.recompute import recompute_layers
from videollava.train.saving.opening import open_place
from videollava.train.saving.spent import clear_unless_awaited
from videollava.train.validation import Validation

__all__ = ["encode_captions", "run"]


def run(params: Params, workspace: Path, machine: Machine = DEFAULTS) -> None:
    """Write models/encoders/KIND: a vision and text encoder pair each, with the tokenizer."""
    target = workspace / "models/encoders"
    first = int(os.environ.get("RANK", "0")) == 0
    if not params.align.train:
        if first:
            check_held()
            _take_encoders(params, workspace, target)
        return
    from transformers import AutoTokenizer

    check_lora(params)
    # Encoders are small: every rank holds them whole, whatever is sharded elsewhere.
    work = machine.work("align").replace(strategy="replicated")
    if first:
        check_held()
        shutil.rmtree(target, ignore_errors=True)
    pins, given = Pins(workspace, "align"), None
    if params.align.language == LEARNED:
        tokenizer = AutoTokenizer.from_pretrained(workspace / "data/index/tokenizer")
    else:
        given, tokenizer = take_language(params.align.language, pins)
    parts = parts_of(params.align)
    if first and params.align.zero_shot:
        parts = with_asked(parts, params, workspace)
    sources = {part.kind: pins.locate(part.source) for part in parts}
    sources["video"] = pins.locate(params.bases.video_encoder)
    torch.manual_seed(params.seed)
    image = begin_image(params, tokenizer, pins.locate(params.bases.image_encoder), given)
    if first:
        pins.write()
    done = 0
    if given is None:
        image, done = _learn_text(image, tokenizer, params, work, workspace)
    _freeze_text(image)
    for number, part in enumerate(parts):
        if number:
            torch.manual_seed(params.seed + KINDS.index(part.kind))  # whichever others learn
        pair = image
        if part.kind == "video":
            root = image
            if params.align.spaces == SEPARATE:
                root, more = _learn_apart(parts[0], tokenizer, params, work, workspace, done)
                done += more
            pair = begin_video(params, tokenizer, root, sources[part.kind])
        elif number:
            pair = begin_other(params, part.kind, tokenizer, image, sources[part.kind])
        pair, steps = _learn(part, pair, tokenizer, params, work, workspace, done, followed=part != parts[-1])
        done += steps
        image = image if number else pair
        if first:
            check_held()
            checkpoint.save(pair, tokenizer, target / part.kind)
    if first:
        apart = ("text-apart", "image-apart") if params.align.spaces == SEPARATE else ()
        for name in ("text", *apart, *(part.kind for part in parts)):
            clear_unless_awaited(open_place(_checkpoints(name, params, workspace), work.checkpoint_place))
    meet()  # no rank ends, and ends the launcher, before all is written


def _learn_apart(
    part: Part, tokenizer: Any, params: Params, work: Work, workspace: Path, logged_before: int
) -> tuple[LanguageBind, int]:
    """The image encoder once more, against a language encoder of its own: what video begins from where spaces are
    separate; the pair, and the number of steps.
    """
    pair = begin_apart(params, tokenizer, Pins(workspace, "align").locate(params.bases.image_encoder))
    seed = params.seed + APART
    pair, told = _learn_text(
        pair, tokenizer, params, work, workspace, name="text-apart", seed=seed, logged_before=logged_before
    )
    _freeze_text(pair)
    torch.manual_seed(params.seed)
    pair, steps = _learn(
        *(part, pair, tokenizer, params, work, workspace, logged_before + told),
        followed=True,
        name="image-apart",
    )
    return pair, told + steps


def _freeze_text(pair: LanguageBind) -> None:
    pair.text_model.requires_grad_(False)
    pair.text_projection.requires_grad_(False)


def _checkpoints(part: str, params: Params, workspace: Path) -> Path:
    return workspace / "checkpoints" / f"align-{part}-{input_key(workspace, 'align', used=params)[:16]}"


def _take_encoders(params: Params, workspace: Path, target: Path) -> None:
    """The encoders of bases.model as `bases` laid them out, or those that are named one by one."""
    pins = Pins(workspace, "align")
    shutil.rmtree(target, ignore_errors=True)
    if params.bases.model:
        shutil.copytree(workspace / "models/given/encoders", target)
    bases = params.bases
    named: dict[str, str] = (
        {} if bases.model else {"image": bases.image_encoder, "video": bases.video_encoder}
    )
    keys = {kind: f"bases.{kind}_encoder" for kind in named}
    for other, tower in params.align.towers.items():
        named[other], keys[other] = tower.encoder, f"align.towers.{other}.encoder"
    for kind, source in named.items():
        _take(pins.locate(source), kind, target / kind, keys[kind])
    pins.write()


def _take(source: str, kind: str, target: Path, key: str) -> None:
    if not source:
        raise InputError(f"params.yaml: align.train is false, so {key} must name an encoder to take")
    from videollava.model.formats.encoder import load_encoder

    pair, tokenizer = load_encoder(source, kind)
    checkpoint.save(pair, tokenizer, target)


def _learn_text(
    pair: LanguageBind,
    tokenizer: Any,
    params: Params,
    work: Work,
    workspace: Path,
    *,
    name: str = "text",
    seed: int | None = None,
    logged_before: int = 0,
) -> tuple[LanguageBind, int]:
    """Train the text encoder of one pair; the pair, and the number of steps. seed: of order and of words left out."""
    align, prepared = params.align, workspace / "data/index"
    seed = params.seed if seed is None else seed
    settings = text_settings(align)
    engine = make_engine(settings, work)
    captions = load_split(prepared, "align").num_rows
    packs = [
        Captions(
            prepared,
            tokenizer,
            plan_pairs(captions, settings.batch_size, engine.ranks, seed, epoch, "text"),
            seed=(seed, epoch),
            positions=POSITIONS,
        )
        for epoch in range(align.text_epochs)
    ]
    pair.requires_grad_(False)
    for part in (pair.text_model, pair.text_projection):
        part.requires_grad_(True)
    pair.logit_scale.requires_grad_(True)
    pair, steps = _train(
        pair, name, packs, settings, work, engine, params, workspace, logged_before, adapted=None
    )
    pair.requires_grad_(True)
    return pair, steps


def _learn(
    part: Part,
    pair: LanguageBind,
    tokenizer: Any,
    params: Params,
    work: Work,
    workspace: Path,
    logged_before: int,
    *,
    followed: bool,
    name: str = "",
) -> tuple[LanguageBind, int]:
    """Train one vision encoder against its frozen text encoder; the pair, and the number of steps. name: of the part;
    by default its kind.
    """
    align, prepared = params.align, workspace / "data/index"
    kind, settings = part.kind, part.settings
    engine = make_engine(settings, work)
    layout = Layout.of(params.model, len(tokenizer), template="plain", image_aspect="crop")
    held_out = held_out_split(prepared, kind, align)
    captions = [*captions_of(prepared), *(captions_of(prepared, held_out) if held_out else ())]
    texts = encode_captions(pair, tokenizer, captions, engine)
    positions = _positions(pair)
    reading = Reading(prepared, tokenizer, layout, texts, positions, work.loaders)
    validation = plan_validation(part, name or kind, held_out, pair, reading, align, engine)
    pairs = len(rows_of(prepared, kind))
    pixels = None
    if align.keep_pixels:
        pixels = decode_all(prepared, kind, layout, work.loaders)
        work = work.replace(workers=0)  # nothing is left to decode
    packs = [
        Pairs(
            prepared,
            kind,
            tokenizer,
            layout,
            plan_pairs(pairs, settings.batch_size, engine.ranks, params.seed, epoch, kind),
            texts=texts,
            positions=positions,
            seed=(params.seed, epoch),
            flips=part.flips,
            pixels=pixels,
            patch_dropout=part.patch_dropout,
        )
        for epoch in range(part.epochs)
    ]
    if align.lora_r:
        add_lora(pair, align)
    recompute_layers(pair.vision_model, work, pair.vision_model.encoder.layers)
    pair, steps = _train(
        *(pair, name or kind, packs, settings, work, engine, params, workspace, logged_before),
        adapted=align,
        validation=validation,
        followed=followed,
    )
    recompute_layers(pair.vision_model, work.replace(recompute=False), pair.vision_model.encoder.layers)
    if align.lora_r:
        merge_lora(pair)
    return pair, steps


def _positions(pair: LanguageBind) -> int:
    """The longest caption, in tokens."""
    return int(pair.config.text_config.max_position_embeddings)


@torch.no_grad()
def encode_captions(
    pair: LanguageBind, tokenizer: Any, captions: Iterable[str], engine: Engine, batch: int = 256
) -> dict[str, Tensor]:
    """The normalised embedding (D,), float32 on the host, of every distinct caption.

    The text encoder is frozen while a vision encoder learns: once is enough, and captions are far fewer than pairs
    times epochs. Sorted by length, so that there is hardly any padding.
    """
    device = engine.device
    pair.text_model.set_attn_implementation(encoder_attention(device, engine.bf16))
    pair.to(device)
    distinct = sorted(set(captions), key=lambda caption: (len(caption), caption))
    texts: dict[str, Tensor] = {}
    for start in range(0, len(distinct), batch):
        part = distinct[start : start + batch]
        ids = tokenizer(part, padding=True, truncation=True, max_length=_positions(pair), return_tensors="pt")
        with engine.autocast():
            embeds = pair.encode_text(ids["input_ids"].to(device), ids["attention_mask"].to(device))
        texts.update(zip(part, embeds.float().cpu(), strict=True))
    return texts


def _train(
    pair: LanguageBind,
    name: str,
    packs: list[Any],
    settings: Train,
    work: Work,
    engine: Engine,
    params: Params,
    workspace: Path,
    logged_before: int,
    *,
    adapted: Align | None,
    validation: Validation | None = None,
    followed: bool = True,
) -> tuple[LanguageBind, int]:
    for part in (pair.vision_model, pair.text_model):
        part.set_attn_implementation(encoder_attention(engine.device, engine.bf16))
    contrast = Contrast(engine, pair, params.align.micro_batch)
    job = Job(
        name=f"align-{name}",
        model=pair,
        groups=choose_groups(pair, settings, params.align.layer_decay),
        forward=contrast.forward,
        learn=contrast.learn if contrast.micro_batch else None,
        packs=packs,
        settings=settings,
        work=work,
        checkpoints=_checkpoints(name, params, workspace),
        seed=params.seed,
        engine=engine,
        max_dropped=params.shards.max_quarantined,
        followed=followed,
        logged_before=logged_before,
        validation=validation,
    )
    train(job)
    check_learned(job, params.align.least_learned, sigmoid=pair.logit_bias is not None)
    return _made_whole(pair, engine, adapted), job.steps


def _made_whole(pair: LanguageBind, engine: Engine, adapted: Align | None) -> LanguageBind:
    """The pair as an ordinary one, on every rank: the next part goes on from it. Encoders are small."""
    if engine.ranks == 1:
        return pair
    whole = LanguageBind(pair.config)
    if adapted and adapted.lora_r:
        add_lora(whole, adapted)
    whole.load_state_dict(engine.weights(pair))
    return whole
