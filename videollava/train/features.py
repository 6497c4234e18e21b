"""Features of the frozen encoders for every medium of a split, computed once and read by both stages.

Kept under checkpoints/features, keyed by the encoders' weights, the preprocessing and the media: what is
there already is not computed again. Worth its disk where a medium is used several times on a small machine; the
size is said before it is written.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videollava.data.load.batches import Layout, read_pixels, settle_reader
from videollava.data.load.features import Features, write_features
from videollava.data.load.shards import Shards
from videollava.data.media.pixels import stack
from videollava.data.prepare.tables import load_split
from videollava.errors import InputError
from videollava.tracking.lineage import digest, folder_md5
from videollava.train.launch.meeting import meet
from videollava.train.launch.pulse import FEATURES, beat, during

__all__ = ["encode_split", "media_of"]

BATCH = {"image": 128, "video": 16}


class Media(Dataset[Tensor]):
    """Item i is the pixels of the i-th of these media."""

    def __init__(self, shards: Shards, numbers: Sequence[int], kind: str, layout: Layout) -> None:
        self.shards, self.numbers, self.kind, self.layout = shards, numbers, kind, layout
        shards.check_frames(layout.frames, layout.image_size)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: int) -> Tensor:
        return read_pixels(self.shards, self.numbers[row], self.kind, self.layout)


def media_of(folder: Path, splits: Sequence[str]) -> dict[str, list[int]]:
    """Media numbers that these splits use, by kind, sorted."""
    shards = Shards(folder)
    used = set()
    for split in splits:
        for column in load_split(folder, split)["media"].chunks:
            used |= set(column.flatten().to_pylist())
    kinds = shards.media["kind"].to_pylist()
    return {kind: sorted(m for m in used if kinds[m] == kind) for kind in ("image", "video")}


def encode_split(
    model: Any,
    prepared: Path,
    splits: Sequence[str],
    layout: Layout,
    encoders: Path,
    store: Path,
    workers: int,
    rank: int = 0,
    ranks: int = 1,
) -> Features:
    """Features of all media of `splits` by the model's frozen encoders (before the projector).

    The ranks share the batches; each of them calls it.
    """
    media = media_of(prepared, splits)
    contents = hashlib.sha256((prepared / "media.arrow").read_bytes()).hexdigest()
    key = digest([folder_md5(encoders), contents, media, layout.image_aspect, str(model.dtype)])[:16]
    folder = store / key
    there = (folder / "features.json").is_file()
    meet()  # all have looked, before one of them writes
    if there:
        return Features(folder)
    tokens = {"image": layout.image_tokens, "video": layout.video_tokens}
    size = sum(len(numbers) * tokens[kind] for kind, numbers in media.items()) * 2 * _width(model)
    if not rank:
        said = f"features of {sum(map(len, media.values()))} media: {size / 2**20:.0f} MiB in {store.name}/"
        print(said, flush=True)
    store.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(store).free < 1.1 * size:
        raise InputError(
            f"{store}: {size / 2**30:.1f} GiB needed for features; free disk or set cache_features: false"
        )
    shards = Shards(prepared)
    with during(FEATURES):
        return write_features(
            folder,
            {
                kind: (
                    numbers,
                    _encode(model, Media(shards, numbers, kind, layout), kind, workers, rank, ranks),
                )
                for kind, numbers in media.items()
            },
            first=not rank,
            meet=meet,
        )


@torch.no_grad()
def _encode(
    model: Any, media: Media, kind: str, workers: int, rank: int, ranks: int
) -> Iterator[tuple[int, Tensor]]:
    """(first row, features) of this rank's batches: whole ones, so that the ranks' number changes no bit."""
    size = BATCH[kind]
    batches = [
        list(range(at, min(at + size, len(media)))) for at in range(rank * size, len(media), ranks * size)
    ]
    call = model.encode_images if kind == "image" else model.encode_videos
    weight = next(getattr(model.model, f"{kind}_tower").parameters())  # others may not be read yet
    used = workers if batches else 0
    loader = DataLoader(
        media, batch_sampler=batches, num_workers=used, collate_fn=stack, worker_init_fn=settle_reader
    )
    for rows, pixels in zip(batches, loader, strict=True):
        # In what the stage computes in: its frozen encoders are held in that.
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.dtype == torch.bfloat16):
            features = call(pixels.to(weight.device, non_blocking=True)).to(torch.bfloat16).cpu()
        beat()
        yield rows[0], features


def _width(model: Any) -> int:
    return int(model.config.vision_config.hidden_size)
