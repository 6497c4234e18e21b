"""Samples of the paper's mix by stage and geometry, as rows of a pack and as padded batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videollava.data.media.pixels import normalise

__all__ = ["GEOMETRIES", "STAGES", "Geometry", "Packed", "Pad", "Samples", "Stage", "pack"]

IGNORED = -100


@dataclass(frozen=True)
class Geometry:
    """Shapes of the model, and by how much the paper's text lengths are divided."""

    image_size: int
    patch_size: int
    vision: dict[str, int]
    language: dict[str, int]
    vocabulary: int
    shorten: float
    precision: str
    tokens_per_pack: int
    checkpointing: bool
    temporal: bool = False  # the video encoder's attention over frames, which transformers' class lacks

    @property
    def placeholders(self) -> tuple[int, int]:
        """Of an image's and of a video's tokens: the last two ids of the table."""
        return self.vocabulary - 2, self.vocabulary - 1

    @property
    def image_tokens(self) -> int:
        """Of one image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def video_tokens(self) -> int:
        """Of one video of 8 frames."""
        return 8 * (self.image_tokens + 1)


GEOMETRIES = {
    "micro": Geometry(  # a test's
        16,
        8,
        {"width": 32, "layers": 3, "heads": 2, "mlp": 64},
        {"width": 64, "layers": 2, "heads": 4, "mlp": 96, "positions": 512},
        128,
        20.0,
        "fp32",
        512,
        False,
    ),
    "small": Geometry(
        48,
        8,
        {"width": 64, "layers": 3, "heads": 2, "mlp": 256},
        {"width": 256, "layers": 6, "heads": 4, "mlp": 688, "positions": 1024},
        1024,
        7.1,
        "fp32",
        4096,
        False,
    ),
    "7b": Geometry(
        224,
        14,
        {"width": 1024, "layers": 24, "heads": 16, "mlp": 4096},
        {"width": 4096, "layers": 32, "heads": 32, "mlp": 11008, "positions": 4096},
        32002,
        1.0,
        "bf16",
        16384,
        True,
    ),
}


@dataclass(frozen=True)
class Stage:
    """The paper's mix, text lengths (from, to) per kind, the learned share of text, and batch sizes.

    The lengths give what its own training sets do: 1.64 and 2.93 padded tokens a real one, 1.8% and 18% targets.
    """

    name: str
    mix: tuple[int, int, int]  # images, videos, text only
    texts: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    learned: float
    padded_batch: int  # samples a GPU pads together, the original's
    batch: int  # samples of an optimiser step
    language_learns: bool
    rate: float


STAGES = {
    1: Stage("pretrain", (558, 702, 0), ((20, 60), (20, 60), (20, 60)), 0.6, 32, 64, False, 1e-3),
    2: Stage("finetune", (625, 100, 40), ((20, 360), (30, 270), (50, 1500)), 0.58, 16, 32, True, 1e-3),
}


class Samples(Dataset[dict[str, Any]]):
    """Item i: ids and labels (lists), and its image (3, H, W) or video (8, 3, H, W) of bytes, from a small pool."""

    def __init__(self, stage: Stage, shape: Geometry, count: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.shape, self.learned = shape, stage.learned
        self.kinds = draw.choice(3, count, p=np.array(stage.mix) / sum(stage.mix))
        bounds = np.array(stage.texts)[self.kinds] / shape.shorten
        self.texts = np.maximum(2, draw.uniform(bounds[:, 0], bounds[:, 1]).astype(int))
        self.seed = seed
        # Some words are far commoner than others: there is something to learn.
        weights = 1.0 / np.arange(5, shape.vocabulary)
        self.words = np.cumsum(weights / weights.sum())
        side = shape.image_size
        pool = torch.Generator().manual_seed(seed)
        self.images = torch.randint(256, (8, 3, side, side), dtype=torch.uint8, generator=pool)
        self.videos = torch.randint(256, (4, 8, 3, side, side), dtype=torch.uint8, generator=pool)

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def tokens(self) -> np.ndarray[Any, Any]:
        """Length of each sample."""
        visual = np.array([self.shape.image_tokens, self.shape.video_tokens, 0])[self.kinds]
        return (visual + self.texts).astype(np.int64)

    @property
    def targets(self) -> np.ndarray[Any, Any]:
        """Learned tokens of each sample."""
        return np.maximum(1, (self.texts * self.learned).astype(np.int64))

    def __getitem__(self, row: int) -> dict[str, Any]:
        kind, length, shape = int(self.kinds[row]), int(self.texts[row]), self.shape
        chances = np.random.default_rng([self.seed, row]).random(length)
        text = (3 + np.searchsorted(self.words, chances).clip(max=shape.vocabulary - 6)).tolist()
        image, video = shape.placeholders
        visual = [[image] * shape.image_tokens, [video] * shape.video_tokens, []][kind]
        ids = [text[0], *visual, *text[1:]]
        learned = int(self.targets[row])
        labels = [IGNORED] * (len(ids) - learned) + ids[len(ids) - learned :]
        labels[0] = IGNORED
        media = {0: {"image": self.images[row % 8]}, 1: {"video": self.videos[row % 4]}}.get(kind, {})
        return {"ids": ids, "labels": labels, **media}


class Packed(Dataset[Any]):
    """Our batches: item p is pack p of the plan."""

    def __init__(self, samples: Samples, plan: Any) -> None:
        self.samples, self.plan = samples, plan

    def __len__(self) -> int:
        return len(self.plan.packs) - 1

    def __getitem__(self, number: int) -> Any:
        return pack(
            [self.samples[row] for row in self.plan.pack(number).tolist()], self.samples.shape, number
        )


def pack(items: list[dict[str, Any]], shape: Geometry, number: int = 0) -> Any:
    """Samples in one row, as videollava.data.load.batches lays them."""
    from videollava.data.load.batches import Batch

    lengths = [len(item["ids"]) for item in items]
    row = {
        name: torch.tensor([[token for item in items for token in item[name]]]) for name in ("ids", "labels")
    }
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    media = {name: [item[name] for item in items if name in item] for name in ("image", "video")}
    batch = Batch(number, row["ids"], row["labels"], positions, lengths=lengths)
    batch.images = torch.stack(media["image"]) if media["image"] else None
    batch.videos = torch.stack(media["video"]) if media["video"] else None
    row_ids = batch.input_ids[0]
    batch.image_places, batch.video_places = (
        (row_ids == token).nonzero()[:, 0] for token in shape.placeholders
    )
    return batch


class Pad:
    """The collator a user writes: rows padded on the right to the longest."""

    def __init__(self, image_name: str) -> None:
        self.image_name = image_name

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        longest = max(len(item["ids"]) for item in items)
        spare = [longest - len(item["ids"]) for item in items]
        batch = {
            "input_ids": torch.tensor([item["ids"] + [0] * n for item, n in zip(items, spare, strict=True)]),
            "labels": torch.tensor(
                [item["labels"] + [IGNORED] * n for item, n in zip(items, spare, strict=True)]
            ),
            "attention_mask": torch.tensor([[1] * (longest - n) + [0] * n for n in spare]),
        }
        for name, key in (("image", self.image_name), ("video", "pixel_values_videos")):
            media = [item[name] for item in items if name in item]
            if media:
                batch[key] = normalise(torch.stack(media))
        return batch
