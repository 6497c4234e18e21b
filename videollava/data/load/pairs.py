"""Media and captions in pairs, for contrastive alignment.

In: the `align` split, one kind of medium. Out: one `PairBatch` a step and rank.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videollava.data.load.batches import Layout, blank_pixels, read_pixels, settle_reader
from videollava.data.load.packing import Plan
from videollava.data.load.shards import Shards
from videollava.data.media.pixels import stack
from videollava.data.modalities import MediumKind
from videollava.data.prepare.tables import MEDIA, load_split, open_table
from videollava.errors import InputError

__all__ = [
    "Captions",
    "PairBatch",
    "Pairs",
    "captions_of",
    "decode_all",
    "number_captions",
    "plan_pairs",
    "rows_of",
]

PATCHES = 1  # sets the draw of patches apart from that of turns


@dataclass
class PairBatch:
    """input_ids, attention_mask (B, L); `lengths` has an entry a pair that is there.

    present: (B,) bool; a pair whose medium does not decode keeps its place, so that ranks' batches stay equal.
    pixels: (B, 3, H, W), (B, T, 3, H, W), or for captions alone the attention mask of their second view (B, L).
    captions: (B,) int64, equal for equal captions, whatever batch they are in and however it is padded.
    texts: with media, the captions as the frozen text encoder has them (B, D); for captions alone (B, 0).
    kept: (B, K) int64, the patches of each medium that the encoder sees; None: all.
    """

    number: int
    input_ids: Tensor
    attention_mask: Tensor
    pixels: Tensor
    captions: Tensor
    texts: Tensor
    present: Tensor
    lengths: list[int]
    dropped: list[str] = field(default_factory=list)
    kept: Tensor | None = None

    @property
    def label_count(self) -> int:
        """Pairs that are there."""
        return len(self.lengths)

    @property
    def sample_count(self) -> int:
        """Pairs that are there."""
        return len(self.lengths)

    def pin_memory(self) -> PairBatch:
        """Itself in page-locked memory; the data loader asks for it by this name."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.pin_memory())
        return self


def number_captions(captions: Sequence[str]) -> Tensor:
    """(B,) int64: a hash of each."""
    hashes = [hashlib.blake2b(caption.encode(), digest_size=7).digest() for caption in captions]
    return torch.tensor([int.from_bytes(digest) for digest in hashes])


def rows_of(prepared: Path, kind: MediumKind, split: str = "align") -> list[int]:
    """Rows of the split whose medium is of this kind ("image", "video", "depth", "thermal", "audio")."""
    import pyarrow.compute as pc

    media = load_split(prepared, split)["media"].combine_chunks()
    alike = pc.equal(open_table(prepared / MEDIA)["kind"], kind).to_numpy()
    chosen = alike[pc.list_flatten(media).to_numpy()]
    return np.unique(pc.list_parent_indices(media).to_numpy()[chosen]).tolist()


def captions_of(prepared: Path, split: str = "align") -> list[str]:
    """The caption of every row of the split."""
    return [json.loads(talk)[-1][1] for talk in load_split(prepared, split)["conversations"].to_pylist()]


def plan_pairs(pairs: int, batch_size: int, ranks: int, seed: int, epoch: int, kind: str = "image") -> Plan:
    """One epoch of batches of `batch_size` over all ranks; the last incomplete one is left out, as negatives count.

    kind: of the media ("text": captions alone), for what an InputError names: fewer pairs than a batch holds, or ranks
    that do not divide it.
    """
    key = {"image": "batch_size", "video": "video_batch_size", "text": "text_batch_size"}.get(kind)
    named = f"align.{key or f'towers.{kind}.batch_size'}"
    if batch_size % ranks:
        raise InputError(
            f"{named}: {batch_size} pairs cannot be shared out evenly to {ranks} ranks: change it, or the number of "
            "ranks"
        )
    share = batch_size // ranks
    steps = pairs // (share * ranks)
    if steps == 0:
        raise InputError(f"{named} is {batch_size}, but there are {pairs} pairs ({kind}) to align; lower it")
    order = np.random.default_rng([seed, epoch]).permutation(pairs)[: steps * share * ranks].astype(np.int32)
    packs = np.arange(steps * ranks + 1, dtype=np.int64) * share
    return Plan(ranks, order, packs, np.arange(steps + 1) * ranks)


class Pairs(Dataset[PairBatch]):
    """Item p is batch p of the plan. `pixels` keeps what was decoded, where the caller says it fits.

    texts: the embedding (D,) of every caption: the text encoder is frozen, so that each is computed once.
    flips: sources whose pictures are mirrored and turned at random: right for captions that name no place.
    patch_dropout: share of a medium's patches that the encoder is not to see. Both are drawn by (seed, epoch, pair), so
    that neither ranks nor batches show in them.
    """

    def __init__(
        self,
        prepared: Path,
        kind: MediumKind,
        tokenizer: Any,
        layout: Layout,
        plan: Plan,
        *,
        texts: Mapping[str, Tensor],
        positions: int = 77,
        seed: tuple[int, int] = (0, 0),
        flips: Sequence[str] = (),
        pixels: dict[int, Tensor] | None = None,
        patch_dropout: float = 0.0,
        split: str = "align",
    ) -> None:
        self.patch_dropout = patch_dropout
        self.shards, self.records = Shards(prepared), load_split(prepared, split)
        self.rows = rows_of(prepared, kind, split)
        self.kind, self.tokenizer, self.layout, self.plan = kind, tokenizer, layout, plan
        self.shards.check_frames(layout.frames, layout.image_size)
        self.positions, self.seed, self.flips, self.pixels = positions, seed, flips, pixels
        self.texts = texts

    def __len__(self) -> int:
        return len(self.plan.packs) - 1

    def __getitem__(self, number: int) -> PairBatch:
        rows = [self.rows[pair] for pair in self.plan.pack(number).tolist()]
        captions = [json.loads(self.records["conversations"][row].as_py())[-1][1] for row in rows]
        media: list[Tensor | None] = []
        dropped = []
        for row in rows:
            try:
                media.append(self._turn(self._read(row), row))
            except InputError as error:
                dropped.append(str(error))
                media.append(None)
        blank = blank_pixels(self.kind, self.layout)
        text = self.tokenizer(
            captions, padding=True, truncation=True, max_length=self.positions, return_tensors="pt"
        )
        return PairBatch(
            number,
            text["input_ids"],
            text["attention_mask"],
            stack([blank if pixels is None else pixels for pixels in media]),
            number_captions(captions),
            torch.stack([self.texts[caption] for caption in captions]),
            torch.tensor([pixels is not None for pixels in media]),
            [1] * (len(rows) - len(dropped)),
            dropped,
            torch.stack([self._draw_patches(row) for row in rows]) if self.patch_dropout else None,
        )

    def _draw_patches(self, row: int) -> Tensor:
        # Of one frame: a clip's frames keep the same ones.
        patches = self.layout.audio_patches if self.kind == "audio" else self.layout.image_tokens
        order = np.random.default_rng([*self.seed, row, PATCHES]).permutation(patches)
        return torch.from_numpy(np.sort(order[: max(1, int(patches * (1 - self.patch_dropout)))]))

    def _read(self, row: int) -> Tensor:
        medium = self.records["media"][row].as_py()[0]
        if self.pixels is None:
            return read_pixels(self.shards, medium, self.kind, self.layout)
        if medium not in self.pixels:
            self.pixels[medium] = read_pixels(self.shards, medium, self.kind, self.layout)
        return self.pixels[medium]

    def _turn(self, pixels: Tensor, row: int) -> Tensor:
        if self.kind == "audio" or self.records["source"][row].as_py() not in self.flips:
            return pixels
        draw = np.random.default_rng([*self.seed, row]).random(3)
        if draw[0] < 0.5:
            pixels = pixels.flip(-1)
        if draw[1] < 0.5:
            pixels = pixels.flip(-2)
        return pixels.transpose(-1, -2) if draw[2] < 0.5 else pixels


class _Pixels(Dataset[Tensor]):
    def __init__(self, shards: Shards, media: Sequence[int], kind: MediumKind, layout: Layout) -> None:
        self.shards, self.media, self.kind, self.layout = shards, media, kind, layout
        shards.check_frames(layout.frames, layout.image_size)

    def __len__(self) -> int:
        return len(self.media)

    def __getitem__(self, row: int) -> Tensor:
        return read_pixels(self.shards, self.media[row], self.kind, self.layout)


def decode_all(prepared: Path, kind: MediumKind, layout: Layout, workers: int) -> dict[int, Tensor]:
    """Pixels of all media of one kind that the pairs have, decoded in `workers` processes."""
    table = load_split(prepared, "align")
    media = sorted({table["media"][row].as_py()[0] for row in rows_of(prepared, kind)})
    pixels = _Pixels(Shards(prepared), media, kind, layout)
    loader = DataLoader(
        pixels, batch_size=32, num_workers=workers, collate_fn=list, worker_init_fn=settle_reader
    )
    return dict(zip(media, (row for batch in loader for row in batch), strict=True))


class Captions(Dataset[PairBatch]):
    """Item p is batch p of the plan: captions of all kinds of media, each in two views that lack different words."""

    def __init__(
        self,
        prepared: Path,
        tokenizer: Any,
        plan: Plan,
        *,
        seed: tuple[int, int],
        positions: int = 77,
        lost: float = 0.15,
    ) -> None:
        self.captions = captions_of(prepared)
        self.tokenizer, self.plan, self.seed, self.positions, self.lost = (
            tokenizer,
            plan,
            seed,
            positions,
            lost,
        )

    def __len__(self) -> int:
        return len(self.plan.packs) - 1

    def __getitem__(self, number: int) -> PairBatch:
        rows = self.plan.pack(number).tolist()
        captions = [self.captions[row] for row in rows]
        text = self.tokenizer(
            captions, padding=True, truncation=True, max_length=self.positions, return_tensors="pt"
        )
        ids, mask = text["input_ids"], text["attention_mask"]
        # By (seed, epoch, caption), and as many numbers whatever the batch is padded to.
        draws = [np.random.default_rng([*self.seed, row]).random((2, self.positions)) for row in rows]
        there = torch.from_numpy(np.stack(draws, 1)[..., : mask.shape[1]] >= self.lost)
        first, second = mask * there[0], mask * there[1]
        for view in (first, second):
            view[:, 0] = 1  # a caption never loses everything
        present = torch.ones(len(captions), dtype=torch.bool)
        nothing = torch.empty(len(ids), 0)
        numbers = number_captions(captions)
        return PairBatch(number, ids, first, second, numbers, nothing, present, [1] * len(ids))
