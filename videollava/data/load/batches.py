"""Packs as tensors: records read, media decoded and text encoded in data-loader workers.

In: prepared shards, a split's records, a Plan. Out: one `Batch` a pack, ready for the model: one row of ids without
padding, positions that start anew with each record, labels, and the media as pixels or as stored features.
A record whose medium no longer decodes is left out of its pack and named in `Batch.dropped`: the loop counts and
bounds those.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videollava.data.load.features import Features
from videollava.data.load.packing import Plan
from videollava.data.load.shards import Shards
from videollava.data.media.admission.opening import Source
from videollava.data.media.audio import BINS, FRAMES
from videollava.data.media.pixels import stack
from videollava.data.media.read import load_pixels
from videollava.data.media.stored import StoredFrames
from videollava.data.modalities import MODALITIES, MediumKind
from videollava.data.prepare.tables import load_split
from videollava.data.records.record import Turn
from videollava.data.text.bounds import Bound
from videollava.data.text.prompts import IGNORED, Encoded, cut, encode, expand
from videollava.environment import end_with_parent_alone
from videollava.errors import InputError

if TYPE_CHECKING:
    from videollava.params import Model

__all__ = [
    "KINDS",
    "PREFETCHED",
    "Batch",
    "Layout",
    "Packs",
    "blank_pixels",
    "decode",
    "lay_in_row",
    "load_batches",
    "read_pixels",
    "settle_reader",
]

KINDS = ("text", "image", "video")  # of samples, by what they show
PREFETCHED = 4  # batches of each loading process on their way


@dataclass(frozen=True)
class Layout:
    """How records become input: template, picture preprocessing, tokens a medium takes and their placeholder ids,
    and how long a sample may be.
    """

    template: str
    image_size: int
    frames: int
    image_tokens: int
    video_tokens: int
    image_token_id: int
    video_token_id: int
    image_aspect: Literal["crop", "pad"] = "pad"
    audio_size: tuple[int, int] = (BINS, FRAMES)
    audio_patches: int = 0
    bound: Bound | None = None

    @classmethod
    def of(cls, model: Model, vocab_size: int, **choices: Any) -> Layout:
        """The layout of `params.model` with placeholders just past the vocabulary, as VideoLlavaConfig has them."""
        return cls(
            image_size=model.image_size,
            frames=model.frames,
            image_tokens=model.image_tokens,
            video_tokens=model.video_tokens,
            image_token_id=vocab_size,
            video_token_id=vocab_size + 1,
            audio_size=model.audio_size,
            audio_patches=model.audio_patches,
            **choices,
        )


@dataclass
class Batch:
    """One pack. ids, labels, positions (1, T) int64; media in order of appearance.

    lengths of its segments; ends: their sums from 0 on (int32). targets: positions (int64) before each target token,
    where the head is needed. All that the device is given is a tensor here: those alone are pinned.
    images (N, 3, H, W) or image_features (N, tokens, dim); videos (M, T, 3, H, W) or video_features (M, tokens, dim).
    image_places, video_places: positions (int64) of their placeholders in the row.
    records: the segments' rows in their split. target_kinds: (targets,) int64 into KINDS, what the sample of each
    target token shows; one with pictures and clips counts as video. blank: no sample is in it, its one token stands in.
    """

    number: int
    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    lengths: list[int]
    ends: Tensor = field(init=False)
    targets: Tensor = field(init=False)
    images: Tensor | None = None
    videos: Tensor | None = None
    image_features: Tensor | None = None
    video_features: Tensor | None = None
    image_places: Tensor | None = None
    video_places: Tensor | None = None
    target_kinds: Tensor | None = None
    records: list[int] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    blank: bool = False

    def __post_init__(self) -> None:
        self.ends = torch.tensor([0, *self.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        self.targets = (self.labels[0, 1:] != IGNORED).nonzero()[:, 0]

    @property
    def target_segments(self) -> Tensor:
        """Which segment (int64) each target token is in."""
        return torch.repeat_interleave(torch.tensor(self.lengths))[self.targets]

    @property
    def label_count(self) -> int:
        """Target tokens."""
        return int((self.labels[0, 1:] != IGNORED).sum())

    @property
    def sample_count(self) -> int:
        """Samples that are there."""
        return 0 if self.blank else len(self.lengths)

    def media(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The media arguments of the model's forward."""
        given = {
            "pixel_values_images": self.images,
            "pixel_values_videos": self.videos,
            "image_features": self.image_features,
            "video_features": self.video_features,
            "image_places": self.image_places,
            "video_places": self.video_places,
        }
        return {
            name: value.to(device, non_blocking=True) for name, value in given.items() if value is not None
        }

    def pin_memory(self) -> Batch:
        """Itself in page-locked memory, for copies that need no waiting; the data loader asks for it by this name."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.pin_memory())
        return self


class Packs(Dataset[Batch]):
    """Item p is pack p of the plan. rows: of the split, those that the plan's samples are; by default all."""

    def __init__(
        self,
        folder: Path,
        split: str,
        tokenizer: Any,
        layout: Layout,
        plan: Plan,
        features: Features | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.shards, self.rows = Shards(folder), rows
        self.shards.check_frames(layout.frames, layout.image_size)
        self.records = load_split(folder, split)
        self.split, self.tokenizer, self.layout, self.plan, self.features = (
            split,
            tokenizer,
            layout,
            plan,
            features,
        )

    def __len__(self) -> int:
        return len(self.plan.packs) - 1

    def rows_of(self, number: int) -> list[int]:
        """The split's rows that a pack holds."""
        samples = self.plan.pack(number)
        found: list[int] = (samples if self.rows is None else self.rows[samples]).tolist()
        return found

    def __getitem__(self, number: int) -> Batch:
        encoded: list[Encoded] = []
        kinds: list[int] = []
        records: list[int] = []
        media: dict[str, list[Any]] = {"image": [], "video": []}
        dropped = []
        for sample in self.rows_of(number):
            try:
                ids, found = self._sample(sample)
            except InputError as error:
                dropped.append(str(error))
                continue
            encoded.append(ids)
            records.append(sample)
            kinds.append(_kind_of([kind for kind, _ in found]))
            for kind, value in found:
                media[kind].append(value)
        if blank := not encoded:
            # A rank with nothing to do still makes every call: one token without a label.
            encoded = [Encoded([self.tokenizer.bos_token_id or 0], [IGNORED])]
        batch = lay_in_row(number, encoded)
        batch.dropped, batch.records, batch.blank = dropped, records, blank
        batch.target_kinds = torch.tensor(kinds or [0])[batch.target_segments]
        batch.image_places = self._places(batch, self.layout.image_token_id)
        batch.video_places = self._places(batch, self.layout.video_token_id)
        self._attach(batch, media)
        return batch

    def _sample(self, row: int) -> tuple[Encoded, list[tuple[str, Any]]]:
        record = {name: self.records[name][row].as_py() for name in ("id", "conversations", "media")}
        where = f"split {self.split}, record {record['id']}"
        kinds = [self.shards.kind(number) for number in record["media"]]
        turns = [Turn(role, text) for role, text in json.loads(record["conversations"])]
        layout = self.layout
        encoded = encode(turns, kinds, self.tokenizer, layout.template, where=where)
        if layout.bound is not None:
            limit, name = layout.bound.text_limit(kinds, where)
            encoded = cut(encoded, limit, bounded_by=name, where=where)
        expanded = expand(
            encoded, layout.image_tokens, layout.video_tokens, layout.image_token_id, layout.video_token_id
        )
        return expanded, [
            (kind, self._medium(kind, number)) for kind, number in zip(kinds, record["media"], strict=True)
        ]

    def _places(self, batch: Batch, token: int) -> Tensor:
        return (batch.input_ids[0] == token).nonzero()[:, 0]

    def _medium(self, kind: str, number: int) -> Any:
        if self.features is not None:
            return number
        return read_pixels(self.shards, number, kind, self.layout)

    def _attach(self, batch: Batch, media: dict[str, list[Any]]) -> None:
        if self.features is not None:
            batch.image_features = self.features.read("image", media["image"]) if media["image"] else None
            batch.video_features = self.features.read("video", media["video"]) if media["video"] else None
            return
        batch.images = stack(media["image"]) if media["image"] else None
        batch.videos = stack(media["video"]) if media["video"] else None


def _kind_of(media: Sequence[str]) -> int:
    """Which of KINDS a sample with media of these kinds is."""
    return KINDS.index("video" if "video" in media else "image" if media else "text")


def read_pixels(shards: Shards, number: int, kind: str, layout: Layout) -> Tensor:
    """Decode and preprocess one medium of data/index: pixels (3, H, W), or (T, 3, H, W) for a video."""
    return decode(shards.read(number), kind, layout)


def decode(source: Source | StoredFrames, kind: str, layout: Layout) -> Tensor:
    """A file, or what shards hold of one, as `read_pixels` gives it."""
    return load_pixels(
        *(kind, source, layout.image_size, layout.frames, layout.image_aspect), spectrogram=layout.audio_size
    )


def blank_pixels(kind: MediumKind, layout: Layout) -> Tensor:
    """What stands in the place of a medium that does not decode."""
    side = layout.image_size
    size = layout.audio_size if kind == "audio" else (side, side)
    frames = (layout.frames,) if kind == "video" else ()
    return torch.zeros(*frames, 3, *size, dtype=torch.float32 if MODALITIES[kind].floats else torch.uint8)


def load_batches(packs: Packs, numbers: Sequence[int], workers: int, pin: bool = False) -> Iterable[Batch]:
    """Batches of these packs, in this order, decoded ahead in `workers` processes (0: in this one)."""
    loader = DataLoader(
        packs,
        batch_size=None,
        sampler=_Order(numbers),
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        pin_memory=pin,
        worker_init_fn=settle_reader,
    )
    return _Received(loader) if workers and not pin else loader


class _Received:
    """Batches of other processes, copied out of shared memory.

    There each tensor is an open file for as long as it is held, and a step holds all its packs: hundreds of them use up
    the files of a process, or a container's shared memory. Pinning copies anyway.
    """

    def __init__(self, loader: DataLoader[Batch]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            for name, value in vars(batch).items():
                if isinstance(value, Tensor):
                    setattr(batch, name, value.clone())
            yield batch


class _Order(torch.utils.data.Sampler[int]):
    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers

    def __iter__(self) -> Any:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def settle_reader(_: int = 0) -> None:
    """In a process that reads and decodes: one thread, and an end with its parent."""
    torch.set_num_threads(1)
    end_with_parent_alone()


def lay_in_row(number: int, encoded: Sequence[Encoded]) -> Batch:
    """Conversations one after the other in one row, without media."""
    lengths = [len(item.input_ids) for item in encoded]
    ids = np.concatenate([item.input_ids for item in encoded])
    labels = np.concatenate([item.labels for item in encoded])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    # The last token of a segment must not be asked for the first of the next.
    labels[starts] = IGNORED
    positions = np.arange(len(ids)) - np.repeat(starts, lengths)
    row = [torch.from_numpy(array.astype(np.int64))[None] for array in (ids, labels, positions)]
    return Batch(number, row[0], row[1], row[2], lengths)
