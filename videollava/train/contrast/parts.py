"""The parts of alignment, a vision encoder each: what of params.yaml is whose."""

from __future__ import annotations

from dataclasses import dataclass

from videollava.data.modalities import KINDS, MediumKind
from videollava.params import Align, Tower, Train
from videollava.train.contrast.zero_shot import Asked
from videollava.train.engine import usable

__all__ = ["Part", "parts_of", "text_settings"]


@dataclass(frozen=True)
class Part:
    """The encoder of one modality: how it learns. source: what it begins as; "": as the encoder of pictures has become.
    flips: sources whose media are mirrored and turned. asked: zero-shot sets that come with it, known to rank 0 alone.
    """

    kind: MediumKind
    epochs: int
    settings: Train
    patch_dropout: float
    flips: tuple[str, ...] = ()
    source: str = ""
    asked: tuple[Asked, ...] = ()


def parts_of(align: Align) -> list[Part]:
    """In the order in which they learn: pictures first, from which all others begin."""
    image = _settings(align, align.image_epochs, align.batch_size, align.learning_rate)
    video = _settings(align, align.video_epochs, align.video_batch_size, align.video_learning_rate)
    return [
        Part("image", align.image_epochs, image, align.patch_dropout, align.flips),
        Part("video", align.video_epochs, video, align.video_patch_dropout),
        *(
            _other(align, kind, tower)
            for kind in KINDS
            for name, tower in align.towers.items()
            if name == kind
        ),
    ]


def text_settings(align: Align) -> Train:
    """How the language encoder learns."""
    return _settings(align, align.text_epochs, align.text_batch_size, align.learning_rate)


def _other(align: Align, kind: MediumKind, tower: Tower) -> Part:
    settings = _settings(align, tower.epochs, tower.batch_size, tower.learning_rate)
    return Part(kind, tower.epochs, settings, tower.patch_dropout, align.flips, tower.encoder)


def _settings(align: Align, epochs: int, batch_size: int, rate: float) -> Train:
    chosen = Train(
        epochs=max(1, epochs),  # of none at all nothing is asked
        batch_size=batch_size,
        learning_rate=rate,
        warmup_ratio=align.warmup_ratio,
        weight_decay=align.weight_decay,
        precision=align.precision,
    )
    return usable(chosen)
