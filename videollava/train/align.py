"""LanguageBind: encoders bound to the language space by contrastive learning (arXiv 2310.01852, section 3).

In: the `align` split (media with captions), the tokenizer. Out: models/encoders/image and models/encoders/video. First image
and text encoder learn together; then the video encoder, begun from the image encoder, learns against the frozen text
encoder: both end in one space before any projector sees them. Where `align.train` is false the encoders named in
`bases` are taken as they are.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from videollava.data.batches import Layout
from videollava.data.pairs import PairBatch, Pairs, plan_pairs, rows_of
from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.model.encoders import LanguageBind, pair_config
from videollava.model.video_llava import IGNORED
from videollava.params import Align, Params, Train
from videollava.tracking import input_key
from videollava.train.accelerate import make_accelerator
from videollava.train.assemble import cpu_attention
from videollava.train.loop import Job, train

__all__ = ["contrastive_loss", "run"]

Kind = Literal["image", "video"]
POSITIONS = 77
HIGHEST_SCALE = math.log(100.0)  # CLIP's bound on the learned temperature


def run(params: Params, workspace: Path) -> None:
    """Write models/encoders/{image,video}: a vision and text encoder pair each, with the tokenizer."""
    target = workspace / "models/encoders"
    if not params.align.train:
        for kind in ("image", "video"):
            _take(getattr(params.bases, f"{kind}_encoder"), kind, target / kind)
        return
    from transformers import AutoTokenizer

    shutil.rmtree(target, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(workspace / "data/prepared/tokenizer")
    torch.manual_seed(params.seed)
    image = _begin_image(params, tokenizer)
    steps = _learn("image", image, tokenizer, params, workspace)
    checkpoint.save(image, tokenizer, target / "image")
    torch.manual_seed(params.seed + 1)
    video = _begin_video(params, tokenizer, image)
    _learn("video", video, tokenizer, params, workspace, logged_before=steps)
    checkpoint.save(video, tokenizer, target / "video")


def _take(source: str, kind: str, target: Path) -> None:
    if not source:
        raise InputError(f"params.yaml: align.train is false, so bases.{kind}_encoder must name an encoder to take")
    from videollava.model.formats.encoder import load_encoder

    pair, tokenizer = load_encoder(source, kind)
    checkpoint.save(pair, tokenizer, target)


def _begin_image(params: Params, tokenizer: Any) -> LanguageBind:
    pair = LanguageBind(pair_config(params.model, "image", len(tokenizer), POSITIONS))
    if params.bases.image_encoder:
        from videollava.model.formats.encoder import load_encoder

        given, _ = load_encoder(params.bases.image_encoder, "image")
        pair.vision_model.load_state_dict(given.vision_model.state_dict())
    else:
        _lay_out_positions(pair.vision_model.embeddings.position_embedding.weight, pair.config.vision_config.grid)
    return pair


@torch.no_grad()
def _lay_out_positions(weight: Tensor, grid: tuple[int, int], size: float = 0.2) -> None:
    """Start positions as sines of row and column, not as noise: a small encoder finds shapes in half the steps."""
    quarter = weight.shape[1] // 4
    rates = 2.0 / 10000 ** (torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(*(torch.arange(n).float() for n in grid), indexing="ij")
    phases = [axis.reshape(-1, 1) * rates for axis in (rows, columns)]
    weight[1:, : 4 * quarter] = size * torch.cat([f(phase) for phase in phases for f in (torch.sin, torch.cos)], dim=1)


def _begin_video(params: Params, tokenizer: Any, image: LanguageBind) -> LanguageBind:
    """The image encoder again, with temporal attention that at first changes nothing; the text encoder frozen."""
    pair = LanguageBind(pair_config(params.model, "video", len(tokenizer), POSITIONS))
    missing, unexpected = pair.load_state_dict(image.state_dict(), strict=False)
    if unexpected or any("temporal" not in name for name in missing):
        raise InputError(f"the video encoder cannot start from the image encoder: {missing + unexpected}")
    for layer in pair.vision_model.encoder.layers:
        if layer.temporal:
            nn.init.zeros_(layer.temporal_attn.out_proj.weight)
            nn.init.zeros_(layer.temporal_attn.out_proj.bias)
    pair.text_model.requires_grad_(False)
    pair.text_projection.requires_grad_(False)
    return pair


def _learn(
    kind: Kind, pair: LanguageBind, tokenizer: Any, params: Params, workspace: Path, logged_before: int = 0
) -> int:
    """Train one pair in place; its number of steps."""
    align = params.align
    video = kind == "video"
    rate = align.video_learning_rate if video else align.learning_rate
    settings = _settings(align, video, rate)
    accelerator = make_accelerator(settings)
    pair.set_attn_implementation({"": "sdpa"} | cpu_attention(accelerator.device) or "sdpa")
    pair.vision_model.config.patch_dropout = align.patch_dropout
    prepared = workspace / "data/prepared"
    layout = Layout.of(params.model, len(tokenizer), template="plain", image_aspect="pad")
    pairs = len(rows_of(prepared, kind))
    pixels: dict[int, Tensor] | None = {} if align.keep_pixels else None
    packs = [
        Pairs(
            prepared,
            kind,
            tokenizer,
            layout,
            plan_pairs(pairs, settings.batch_size, accelerator.num_processes, params.seed, epoch),
            positions=POSITIONS,
            seed=(params.seed, epoch),
            flips=align.flips and not video,
            pixels=pixels,
        )
        for epoch in range(settings.epochs)
    ]
    job = Job(
        name=f"align-{kind}",
        model=pair,
        groups=list(_decayed(pair, settings)),
        forward=partial(_forward, accelerator),
        packs=packs,
        settings=settings,
        checkpoints=workspace / "checkpoints" / f"align-{kind}-{input_key(workspace, 'align')[:16]}",
        seed=params.seed,
        accelerator=accelerator,
        max_dropped=params.prepare.max_quarantined,
        logged_before=logged_before,
    )
    train(job)
    pair.vision_model.config.patch_dropout = 0.0
    return job.steps


def _settings(align: Align, video: bool, rate: float) -> Train:
    return Train(
        epochs=align.video_epochs if video else align.image_epochs,
        batch_size=align.video_batch_size if video else align.batch_size,
        learning_rate=rate,
        warmup_ratio=align.warmup_ratio,
        weight_decay=align.weight_decay,
        precision=align.precision,
        checkpoint_steps=200,
        workers=0 if align.keep_pixels else align.workers,
    )


def _decayed(pair: nn.Module, settings: Train) -> Iterator[dict[str, Any]]:
    """Matrices decay; norms, biases and the temperature do not."""
    learned = [p for p in pair.parameters() if p.requires_grad]
    yield {"params": [p for p in learned if p.ndim > 1], "lr": settings.learning_rate}
    yield {"params": [p for p in learned if p.ndim <= 1], "lr": settings.learning_rate, "weight_decay": 0.0}


def _forward(accelerator: Any, model: nn.Module, batch: PairBatch, share: Tensor | float) -> Tensor:
    device = accelerator.device
    out = model(
        pixel_values=batch.pixels.to(device),
        input_ids=batch.input_ids.to(device),
        attention_mask=batch.attention_mask.to(device),
    )
    pair = accelerator.unwrap_model(model)
    scale = pair.logit_scale.clamp(max=HIGHEST_SCALE).exp()
    captions = F.pad(batch.input_ids, (0, POSITIONS - batch.input_ids.shape[1]), value=IGNORED).to(device)
    return contrastive_loss(accelerator, out.image_embeds.float(), out.text_embeds.float(), captions, scale)


def contrastive_loss(accelerator: Any, media_BD: Tensor, text_BD: Tensor, captions_BL: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of this rank's pairs against the pairs of all ranks (normalised embeddings).

    Equal captions (captions_BL: their ids) are all right answers: with few distinct captions a batch holds many
    pairs that are no negatives of each other.
    """
    all_media, all_text, all_captions = (_gather(accelerator, x) for x in (media_BD, text_BD, captions_BL))
    same = (captions_BL[:, None] == all_captions[None]).all(-1).float()
    wanted = same / same.sum(1, keepdim=True)
    losses = [
        -(wanted * (scale * a @ b.T).log_softmax(1)).sum(1).mean()
        for a, b in ((media_BD, all_text), (text_BD, all_media))
    ]
    return (losses[0] + losses[1]) / 2


def _gather(accelerator: Any, tensor: Tensor) -> Tensor:
    """This tensor from all ranks, this rank's own part with its gradient."""
    if accelerator.num_processes == 1:
        return tensor
    parts = list(accelerator.gather(tensor.detach()[None]).unbind(0))
    parts[accelerator.process_index] = tensor
    return torch.cat(parts)
