"""Media of an evaluation as encoder features: decoded ahead in workers, each once a window, none skipped.

What cannot be read is reported with its reason; a file that kills the process decoding it is one of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videollava.data.load.shards import Shards
from videollava.data.media.pixels import stack
from videollava.data.media.read import load_pixels
from videollava.data.pool import Pool
from videollava.errors import InputError
from videollava.evaluate.questions import Item, Medium
from videollava.evaluate.ranks import Ranks

__all__ = [
    "Encode",
    "Encoded",
    "Reader",
    "blindfold",
    "encode_windows",
    "media_of",
    "read_means",
    "sum_features",
]

AT_ONCE = {"image": 128, "video": 16}  # media through an encoder in one call
AHEAD = 8  # decoded media that wait, for each worker
AVERAGED, SUMMED = 256, 16  # media of a kind whose mean blinds, and of them in a part
LIGHT = 32 << 20  # bytes of media up to which starting several workers costs more than they save
LONGEST = 120  # seconds that one medium may take
HOPELESS = 8  # unreadable media, and no readable one, after which a run ends
Pixels = NDArray[Any]


@dataclass(frozen=True)
class Encoded:
    """Features (tokens, dim) of a window's media, and why others have none."""

    features: dict[Medium, Tensor]
    problems: dict[Medium, str]


Encode = Callable[[Sequence[Sequence[Medium]]], Iterator[Encoded]]


@dataclass(frozen=True)
class Reader:
    """Where media are and how they become pixels, as a model's encoders take them; goes to worker processes.

    Numbers are media of data/index in `workspace`, paths are relative to it.
    """

    workspace: Path
    image_size: int
    video_size: int
    frames: int
    aspect: Literal["pad", "crop"] = "pad"

    @classmethod
    def of(cls, config: Any, workspace: Path, aspect: Literal["pad", "crop"]) -> Reader:
        """For the model of this VideoLlavaConfig."""
        images, videos = config.vision_config, config.video_config
        return cls(workspace, int(images.image_size), int(videos.image_size), int(videos.num_frames), aspect)

    def __call__(self, medium: Medium) -> Pixels | str:
        """Pixels (3, H, W) or (T, 3, H, W), or why there are none."""
        kind, key = medium
        try:
            source = self.workspace / key if isinstance(key, str) else self._shards().read(key)
            size = self.video_size if kind == "video" else self.image_size
            return np.asarray(load_pixels(kind, source, size, self.frames, self.aspect))
        except InputError as error:
            return str(error).replace(f"{self.workspace}/", "")

    def check_frames(self) -> None:
        """InputError where clips of data/index are stored as other frames than the model takes."""
        self._shards().check_frames(self.frames, self.video_size)

    def mark(self, medium: Medium) -> str:
        """What tells a medium from another in its place: the size of a file; in the index its sum too, since stored
        frames have one size.
        """
        _, key = medium
        held = str(self._shards().media["sha256"][key].as_py()) if isinstance(key, int) else ""
        return f"{held} {self.size(medium)}"

    def size(self, medium: Medium) -> int:
        """Bytes of its file; 0 where there is none."""
        _, key = medium
        if isinstance(key, int):
            return int(self._shards().media["size"][key].as_py())
        path = self.workspace / key
        return path.stat().st_size if path.is_file() else 0

    def _shards(self) -> Shards:
        prepared = self.workspace / "data/index"
        return _open_shards(prepared, (prepared / "media.arrow").stat().st_mtime_ns)


def media_of(items: Sequence[Item]) -> list[Medium]:
    """The distinct media of questions, in the order they first come."""
    return list(dict.fromkeys(chain.from_iterable(item.seen for item in items)))


def encode_windows(
    model: Any, reader: Reader, workers: int, windows: Sequence[Sequence[Medium]], *, hopeless: int = HOPELESS
) -> Iterator[Encoded]:
    """Features of the media of each window in turn; later windows' are decoded meanwhile, a bounded number ahead.

    InputError where `hopeless` media and none before them can be read (0: never): that is a wrong folder or a missing
    decoder, not missing media.
    """
    many = workers > 1 and _is_much(chain.from_iterable(windows), reader)
    used = workers if many else 1
    read, unread = 0, 0
    with Pool(used) if many else nullcontext(_lone_pool()) as pool:
        every = chain.from_iterable(windows)
        decoded = pool.stream(reader, every, crashed=_crashed, window=max(16, AHEAD * used), seconds=LONGEST)
        for window in windows:
            encoded = _encode_window(model, window, decoded)
            read, unread = read + len(encoded.features), unread + len(encoded.problems)
            if hopeless and not read and unread >= hopeless:
                problem = next(iter(encoded.problems.values()))
                raise InputError(f"none of the first {unread} media can be read: {problem}")
            yield encoded


def blindfold(means: Mapping[str, Tensor]) -> Encode:
    """Every medium as the mean of its kind."""

    def encode(windows: Sequence[Sequence[Medium]]) -> Iterator[Encoded]:
        for window in windows:
            features = {medium: means[medium[0]] for medium in window if medium[0] in means}
            unread = [medium for medium in window if medium[0] not in means]
            yield Encoded(features, dict.fromkeys(unread, "none of its kind could be read"))

    return encode


@torch.inference_mode()
def sum_features(
    model: Any, reader: Reader, workers: int, media: Sequence[Medium], folder: Path, ranks: Ranks
) -> None:
    """Into `folder`, this rank's share of what `read_means` is of: for each kind, its media (256 of them, spread,
    where there are more) in parts. A part that is there is not made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[Path, list[Medium]] = {}
    for kind in dict.fromkeys(kind for kind, _ in media):
        own = [medium for medium in media if medium[0] == kind]
        chosen = own[:: max(1, len(own) // AVERAGED)][:AVERAGED]
        for start in range(0, len(chosen), SUMMED):
            parts[folder / f"{kind}-{start:03}.npz"] = chosen[start : start + SUMMED]
    mine = {path: part for path, part in list(parts.items())[ranks.rank :: ranks.size] if not path.exists()}
    encoding = encode_windows(model, reader, workers, list(mine.values()), hopeless=0)
    for path, encoded in zip(mine, encoding, strict=True):
        rows = list(encoded.features.values())
        total = torch.stack(rows).double().sum(0).cpu().numpy() if rows else np.zeros(0)
        with path.with_suffix(".tmp").open("wb") as file:
            np.savez(file, total=total, count=len(rows))
        path.with_suffix(".tmp").replace(path)


def read_means(model: Any, folder: Path) -> dict[str, Tensor]:
    """For each kind the mean features (tokens, dim) of its media: what a model sees that cannot look.

    Parts are added in order: the mean is one to the last bit, whoever made them.
    """
    weight = next(model.parameters())
    totals: dict[str, tuple[Any, int]] = {}
    for path in sorted(folder.glob("*.npz")):
        kind = path.name.partition("-")[0]
        with np.load(path) as part:
            if part["count"]:
                total, count = totals.get(kind, (0.0, 0))
                totals[kind] = total + part["total"], count + int(part["count"])
    return {
        kind: torch.from_numpy(total / count).to(weight.device, weight.dtype)
        for kind, (total, count) in totals.items()
    }


@torch.inference_mode()
def _encode_window(model: Any, window: Sequence[Medium], decoded: Iterator[Pixels | str]) -> Encoded:
    waiting: dict[str, dict[Medium, Pixels]] = {"image": {}, "video": {}}
    encoded = Encoded({}, {})
    for medium, found in zip(window, decoded, strict=False):
        kind = medium[0]
        if isinstance(found, str):
            encoded.problems[medium] = found
            continue
        waiting[kind][medium] = found
        if len(waiting[kind]) == AT_ONCE[kind]:
            encoded.features.update(_encode(model, kind, waiting[kind]))
            waiting[kind] = {}
    for kind, rest in waiting.items():
        encoded.features.update(_encode(model, kind, rest))
    return encoded


def _encode(model: Any, kind: str, pixels: dict[Medium, Pixels]) -> dict[Medium, Tensor]:
    if not pixels:
        return {}
    weight = next(model.parameters())
    call = model.encode_images if kind == "image" else model.encode_videos
    rows = call(stack([torch.from_numpy(medium) for medium in pixels.values()]).to(weight.device))
    return dict(zip(pixels, rows, strict=True))


def _is_much(media: Iterable[Medium], reader: Reader) -> bool:
    """Whether decoding is worth starting processes."""
    total = 0
    for medium in media:
        total += reader.size(medium)
        if total > LIGHT:
            return True
    return False


def _crashed(medium: Medium) -> str:
    return (
        f"{medium[1]}: the process that decoded it died, or took over {LONGEST} s; "
        "check the file, then save it again"
    )


@lru_cache(maxsize=1)
def _lone_pool() -> Pool:
    """One process for whatever is light; it stays, as starting it takes longer than the work."""
    return Pool(1)


@lru_cache(maxsize=2)
def _open_shards(prepared: Path, written: int) -> Shards:
    return Shards(prepared)
