"""LanguageBind: encoders bound to the language space by contrastive learning (arXiv 2310.01852, section 3).

In: the `align` split (media with captions), the tokenizer. Out: models/encoders/image and models/encoders/video. As in
LanguageBind the language encoder comes first and is then frozen: here a small one learns to tell captions apart, each
from two views that lack different words. The image encoder learns against it, then the video encoder, begun from the
image encoder: both end in one space before any projector sees them. Where `align.train` is false the encoders of
`bases.model`, or those named in `bases`, are taken as they are.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from videollava.data.load.batches import Layout
from videollava.data.load.pairs import (
    Captions,
    Pairs,
    captions_of,
    decode_all,
    plan_pairs,
    rows_of,
)
from videollava.data.prepare.tables import load_split
from videollava.errors import InputError
from videollava.machine import DEFAULTS, Machine, Work
from videollava.model import checkpoint
from videollava.model.attention import encoder_attention
from videollava.model.encoders import LanguageBind, LanguageBindConfig, pair_config
from videollava.origin import Pins
from videollava.params import Align, Params, Train
from videollava.tracking import input_key
from videollava.train.contrast.steps import Contrast
from videollava.train.engine import Engine, make_engine, usable
from videollava.train.launch.fence import check_held
from videollava.train.launch.meeting import meet
from videollava.train.learned import check_learned
from videollava.train.loop import Job, train
from videollava.train.saving.opening import open_place
from videollava.train.saving.spent import clear_unless_awaited

__all__ = ["encode_captions", "run"]

Kind = Literal["image", "video"]
POSITIONS = 77
SIGMOID_START = math.log(10.0), -10.0  # SigLIP's: at first nothing is right, as nearly nothing is


def run(params: Params, workspace: Path, machine: Machine = DEFAULTS) -> None:
    """Write models/encoders/{image,video}: a vision and text encoder pair each, with the tokenizer."""
    target = workspace / "models/encoders"
    first = int(os.environ.get("RANK", "0")) == 0
    if not params.align.train:
        if first:
            check_held()
            _take_encoders(params, workspace, target)
        return
    from transformers import AutoTokenizer

    # Encoders are small: every rank holds them whole, whatever is sharded elsewhere.
    work = machine.work("align").replace(strategy="replicated")
    if first:
        check_held()
        shutil.rmtree(target, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(workspace / "data/index/tokenizer")
    torch.manual_seed(params.seed)
    pins = Pins(workspace, "align")
    image = _begin_image(params, tokenizer, pins.locate(params.bases.image_encoder))
    if first:
        pins.write()
    image, done = _learn_text(image, tokenizer, params, work, workspace)
    image.text_model.requires_grad_(False)
    image.text_projection.requires_grad_(False)
    image, steps = _learn("image", image, tokenizer, params, work, workspace, logged_before=done)
    done += steps
    if first:
        check_held()
        checkpoint.save(image, tokenizer, target / "image")
    torch.manual_seed(params.seed + 1)
    video = _begin_video(params, tokenizer, image)
    video, _ = _learn("video", video, tokenizer, params, work, workspace, logged_before=done)
    if first:
        check_held()
        checkpoint.save(video, tokenizer, target / "video")
        for part in ("text", "image", "video"):
            clear_unless_awaited(open_place(_checkpoints(part, params, workspace), work.checkpoint_place))
    meet()  # no rank ends, and ends the launcher, before all is written


def _checkpoints(part: str, params: Params, workspace: Path) -> Path:
    return workspace / "checkpoints" / f"align-{part}-{input_key(workspace, 'align', used=params)[:16]}"


def _take_encoders(params: Params, workspace: Path, target: Path) -> None:
    """The encoders of bases.model as `bases` laid them out, or those that are named one by one."""
    pins = Pins(workspace, "align")
    shutil.rmtree(target, ignore_errors=True)
    if params.bases.model:
        shutil.copytree(workspace / "models/given/encoders", target)
    for kind in () if params.bases.model else ("image", "video"):
        _take(pins.locate(getattr(params.bases, f"{kind}_encoder")), kind, target / kind)
    pins.write()


def _take(source: str, kind: str, target: Path) -> None:
    if not source:
        raise InputError(
            f"params.yaml: align.train is false, so bases.{kind}_encoder must name an encoder to take"
        )
    from videollava.model.formats.encoder import load_encoder

    pair, tokenizer = load_encoder(source, kind)
    checkpoint.save(pair, tokenizer, target)


def _config(params: Params, kind: Kind, tokenizer: Any) -> LanguageBindConfig:
    config = pair_config(params.model, kind, len(tokenizer), POSITIONS)
    if params.align.loss == "sigmoid":
        config.logit_scale_init_value, config.logit_bias_init_value = SIGMOID_START
    return config


def _begin_image(params: Params, tokenizer: Any, source: str) -> LanguageBind:
    pair = LanguageBind(_config(params, "image", tokenizer))
    if source:
        from videollava.model.formats.encoder import load_tower

        pair.vision_model.load_state_dict(load_tower(source).state_dict())
    else:
        _lay_out_positions(
            pair.vision_model.embeddings.position_embedding.weight, pair.config.vision_config.grid
        )
    return pair


@torch.no_grad()
def _lay_out_positions(weight: Tensor, grid: tuple[int, int], size: float = 1.2) -> None:
    """Start positions as sines of row and column, not as noise: a small encoder finds shapes in half the steps.

    As large as the patches they are added to: fainter, they are found late.
    """
    quarter = weight.shape[1] // 4
    rates = 2.0 / 10000 ** (torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(*(torch.arange(n).float() for n in grid), indexing="ij")
    phases = [axis.reshape(-1, 1) * rates for axis in (rows, columns)]
    weight[1:, : 4 * quarter] = size * torch.cat(
        [f(phase) for phase in phases for f in (torch.sin, torch.cos)], dim=1
    )


@torch.no_grad()
def _lay_out_frames(embedding: Tensor, size: float = 0.2) -> None:
    """Start the embeddings of time (1, frames, dim) as sines of the frame's number, so that frames have an order."""
    half = embedding.shape[2] // 2
    phases = torch.arange(embedding.shape[1])[:, None] / 100 ** (torch.arange(half) / half)
    embedding[0, :, : 2 * half] = size * torch.cat([phases.sin(), phases.cos()], dim=1)


def _begin_video(params: Params, tokenizer: Any, image: LanguageBind) -> LanguageBind:
    """The image encoder again, with temporal attention that at first adds nothing; the text encoder frozen."""
    pair = LanguageBind(_config(params, "video", tokenizer))
    missing, unexpected = pair.load_state_dict(image.state_dict(), strict=False)
    if unexpected or any("temporal" not in name for name in missing):
        raise InputError(f"the video encoder cannot start from the image encoder: {missing + unexpected}")
    layers: Any = pair.vision_model.encoder.layers
    for layer in layers:
        if layer.temporal:
            nn.init.zeros_(layer.temporal_attn.out_proj.weight)
            nn.init.zeros_(layer.temporal_attn.out_proj.bias)
            _lay_out_frames(layer.temporal_embedding)
    pair.text_model.requires_grad_(False)
    pair.text_projection.requires_grad_(False)
    return pair


def _learn_text(
    pair: LanguageBind, tokenizer: Any, params: Params, work: Work, workspace: Path
) -> tuple[LanguageBind, int]:
    """Train the text encoder of one pair; the pair, and the number of steps."""
    align, prepared = params.align, workspace / "data/index"
    settings = _settings(align, align.text_epochs, align.text_batch_size, align.learning_rate)
    engine = make_engine(settings, work)
    captions = load_split(prepared, "align").num_rows
    packs = [
        Captions(
            prepared,
            tokenizer,
            plan_pairs(captions, settings.batch_size, engine.ranks, params.seed, epoch),
            seed=(params.seed, epoch),
            positions=POSITIONS,
        )
        for epoch in range(settings.epochs)
    ]
    pair.requires_grad_(False)
    for part in (pair.text_model, pair.text_projection):
        part.requires_grad_(True)
    pair.logit_scale.requires_grad_(True)
    pair, steps = _train(pair, "text", packs, settings, work, engine, params, workspace)
    pair.requires_grad_(True)
    return pair, steps


def _learn(
    kind: Kind,
    pair: LanguageBind,
    tokenizer: Any,
    params: Params,
    work: Work,
    workspace: Path,
    logged_before: int,
) -> tuple[LanguageBind, int]:
    """Train one vision encoder against its frozen text encoder; the pair, and the number of steps."""
    align, prepared, video = params.align, workspace / "data/index", kind == "video"
    settings = (
        _settings(align, align.video_epochs, align.video_batch_size, align.video_learning_rate)
        if video
        else _settings(align, align.image_epochs, align.batch_size, align.learning_rate)
    )
    engine = make_engine(settings, work)
    layout = Layout.of(params.model, len(tokenizer), template="plain", image_aspect="pad")
    texts = encode_captions(pair, tokenizer, captions_of(prepared), engine)
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
            plan_pairs(pairs, settings.batch_size, engine.ranks, params.seed, epoch),
            texts=texts,
            positions=POSITIONS,
            seed=(params.seed, epoch),
            flips=() if video else align.flips,
            pixels=pixels,
            patch_dropout=align.video_patch_dropout if video else align.patch_dropout,
        )
        for epoch in range(settings.epochs)
    ]
    return _train(pair, kind, packs, settings, work, engine, params, workspace, logged_before)


@torch.no_grad()
def encode_captions(
    pair: LanguageBind, tokenizer: Any, captions: Iterable[str], engine: Engine, batch: int = 256
) -> dict[str, Tensor]:
    """The normalised embedding (D,), float32 on the host, of every distinct caption.

    The text encoder is frozen while a vision encoder learns: once is enough, and captions are far fewer than pairs
    times epochs. Sorted by length, so that there is hardly any padding.
    """
    device = engine.device
    pair.text_model.set_attn_implementation(encoder_attention(device))
    pair.to(device)
    distinct = sorted(set(captions), key=lambda caption: (len(caption), caption))
    texts: dict[str, Tensor] = {}
    for start in range(0, len(distinct), batch):
        part = distinct[start : start + batch]
        ids = tokenizer(part, padding=True, truncation=True, max_length=POSITIONS, return_tensors="pt")
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
    logged_before: int = 0,
) -> tuple[LanguageBind, int]:
    for part in (pair.vision_model, pair.text_model):
        part.set_attn_implementation(encoder_attention(engine.device))
    contrast = Contrast(engine, pair, params.align.micro_batch)
    job = Job(
        name=f"align-{name}",
        model=pair,
        groups=list(_decayed(pair, settings)),
        forward=contrast.forward,
        learn=contrast.learn if contrast.micro_batch else None,
        packs=packs,
        settings=settings,
        work=work,
        checkpoints=_checkpoints(name, params, workspace),
        seed=params.seed,
        engine=engine,
        max_dropped=params.shards.max_quarantined,
        followed=name != "video",
        logged_before=logged_before,
    )
    train(job)
    check_learned(job, params.align.least_learned, sigmoid=pair.logit_bias is not None)
    return _made_whole(pair, engine), job.steps


def _made_whole(pair: LanguageBind, engine: Engine) -> LanguageBind:
    """The pair as an ordinary one, on every rank: the next part goes on from it. Encoders are small."""
    if engine.ranks == 1:
        return pair
    whole = LanguageBind(pair.config)
    whole.load_state_dict(engine.weights(pair))
    return whole


def _settings(align: Align, epochs: int, batch_size: int, rate: float) -> Train:
    chosen = Train(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=rate,
        warmup_ratio=align.warmup_ratio,
        weight_decay=align.weight_decay,
        precision=align.precision,
    )
    return usable(chosen)


def _decayed(pair: nn.Module, settings: Train) -> Iterator[dict[str, Any]]:
    """Matrices decay; norms, biases and the temperature do not."""
    learned = [p for p in pair.parameters() if p.requires_grad]
    yield {"params": [p for p in learned if p.ndim > 1], "lr": settings.learning_rate}
    yield {"params": [p for p in learned if p.ndim <= 1], "lr": settings.learning_rate, "weight_decay": 0.0}
