"""Lengths of samples that are only known by number: what planning uses before anything is prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from videollava.data.load.packing import Lengths
from videollava.data.text.bounds import bound_of
from videollava.errors import InputError
from videollava.params import Params
from videollava.train.cost import Prices

__all__ = ["MEDIUM_BYTES", "Samples", "parse_samples", "typical_lengths"]

MOST = 10**12  # samples of a stage
DRAWN = 100_000  # this many are laid out; the rest follows in proportion
# Text tokens (from, to) of the conversation of an image, a video and a text, and the share of them that is learned.
# With the stated numbers of samples these have the original training sets' mean length, padding (1.64 and 2.93 times)
# and share of targets (1.8% and 18%).
TEXTS = {
    "pretrain": ((20, 60), (20, 60), (20, 60), 0.6),
    "finetune": ((20, 360), (30, 270), (50, 1500), 0.58),
}
MEDIUM_BYTES = {"image": 100e3, "video": 2e6}
PAPER = "pretrain=558000,702000,0 and finetune=625000,100000,40000"


@dataclass(frozen=True)
class Samples:
    """Numbers of samples with an image, with a video, and of text alone."""

    images: int
    videos: int
    texts: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.images + self.videos + self.texts


def parse_samples(texts: list[str]) -> dict[str, Samples]:
    """["pretrain=558000,702000,0", ..] by stage; InputError on anything else."""
    found = {}
    for text in texts:
        stage, _, numbers = text.partition("=")
        counts = numbers.split(",")
        if stage not in TEXTS or len(counts) != 3 or not all(count.strip().isdigit() for count in counts):
            raise InputError(f"--samples {text}: write STAGE=IMAGES,VIDEOS,TEXTS (the paper's: {PAPER})")
        found[stage] = Samples(*map(int, counts))
        if not 0 < found[stage].total <= MOST:
            raise InputError(f"--samples {text}: {stage} needs at least one sample, and at most {MOST:,}")
    return found


def typical_lengths(
    stage: str, params: Params, samples: Mapping[str, Samples], prices: Prices
) -> tuple[Lengths, float]:
    """Lengths of the stated samples, at most DRAWN of them, and how many times as many there are."""
    stated = samples.get(stage)
    if stated is None or stated.total == 0:
        raise InputError(
            f"data/index has no {stage} split: run `videollava index`, or state the numbers of samples with "
            f"--samples {stage}=IMAGES,VIDEOS,TEXTS (the paper's: {PAPER})"
        )
    counts = np.array([stated.images, stated.videos, stated.texts])
    drawn = np.ceil(counts / max(1.0, stated.total / DRAWN)).astype(int)
    kind = np.repeat(np.arange(3), drawn)
    *ranges, learned = TEXTS[stage]
    draw = np.random.default_rng(params.seed)
    text = np.concatenate([draw.integers(*bounds, size) for bounds, size in zip(ranges, drawn, strict=True)])
    visual = np.array([params.model.image_tokens, params.model.video_tokens, 0])[kind]
    bound = bound_of(params, stage)
    if bound is not None:
        every = zip((["image"], ["video"], []), drawn, strict=True)
        limits = [bound.text_limit(kinds, stage)[0] if count else 0 for kinds, count in every]
        text = np.minimum(text, np.array(limits)[kind])
    tokens, targets = (visual + text).astype(np.int64), np.ceil(text * learned).astype(np.int64)
    media = [(kind == place).astype(np.int64) for place in (0, 1)]
    return Lengths(tokens, targets, prices.cost(tokens, targets, *media)), stated.total / len(kind)
