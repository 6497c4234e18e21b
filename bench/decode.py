"""Videos a second of one core: our decoding and preprocessing against plain decord and a resize, and against reading
frames that stage `shards` stored (shards.frames), with the bytes of each.

    python bench/decode.py                     # H.264 clips of three sizes, drawn here
    python bench/decode.py --videos FOLDER     # every .mp4, .webm, .mkv and .avi below it

Every way gives 8 frames of 224 x 224, float32 and normalised, in one thread; the ways take turns, file by file, and
the best of the rounds counts. One JSON object a line; `bytes` of the clip's file and of its stored frames.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from videollava.data.media import read as media
from videollava.data.media import video
from videollava.data.media.pixels import normalise
from videollava.data.media.stored import FORMS, Form, StoredFrames, store_frames

FRAMES, SIZE = 8, 224
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = ((320, 240), (640, 360), (1280, 720))
SECONDS, RATE = 10, 25
ENDINGS = {".mp4", ".webm", ".mkv", ".avi"}


def ours(file: Path) -> Tensor:
    """What training does."""
    return media.frames_to_pixels(media.read_frames(file, FRAMES), SIZE)


def by_av(file: Path) -> Tensor:
    """The same where decord is missing."""
    with mock.patch.object(video, "read_plain", return_value=None):
        return ours(file)


def plain(file: Path) -> Tensor:
    """As a user writes it: decord, whole frames to float, normalise, short side to 224, centre crop."""
    import decord

    reader = decord.VideoReader(str(file), ctx=decord.cpu(0), num_threads=1)
    return _whole(reader.get_batch(np.linspace(0, len(reader) - 1, FRAMES, dtype=int)).asnumpy())


def _whole(frames: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    height, width = pixels.shape[-2:]
    scale = SIZE / min(height, width)
    pixels = F.interpolate(pixels, size=(int(height * scale), int(width * scale)), mode="bilinear")
    top, left = (pixels.shape[-2] - SIZE) // 2, (pixels.shape[-1] - SIZE) // 2
    return pixels[..., top : top + SIZE, left : left + SIZE].contiguous()


@lru_cache(maxsize=2)
def stored(form: Form, file: Path) -> StoredFrames:
    """What stage `shards` puts in the clip's place."""
    return StoredFrames(store_frames(ours(file), form, "0" * 64))


def from_frames(form: Form, file: Path) -> Tensor:
    """What training does where frames are stored."""
    return stored(form, file).pixels(SIZE, FRAMES)


WAYS: dict[str, Callable[[Path], Tensor]] = {
    "ours": ours,
    "ours, PyAV alone": by_av,
    "plain": plain,
    **{f"stored, {form}": partial(from_frames, form) for form in FORMS},
}


def draw(folder: Path) -> Iterator[Path]:
    """A clip of each size: a moving gradient with noise, so that there is something to decode."""
    import av

    for width, height in SIZES:
        file, random = folder / f"{width}x{height}.mp4", np.random.default_rng(width)
        rows, columns = np.mgrid[:height, :width]
        noise = random.integers(0, 24, (height, width, 3), np.uint8)
        with av.open(str(file), "w") as container:
            stream = container.add_stream("libx264", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for number in range(SECONDS * RATE):
                waves = [(rows * 2 + number * 3) % 200, (columns + number * 5) % 220, (rows + columns) % 230]
                picture = np.stack(waves, -1).astype(np.uint8) + np.roll(noise, number, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        yield file


def _difference(one: Tensor, other: Tensor) -> float:
    return float((normalise(one) - normalise(other)).abs().max())


def seconds_of(way: Callable[[Path], Tensor], file: Path) -> float:
    began = time.perf_counter()
    pixels = way(file)
    assert pixels.shape == (FRAMES, 3, SIZE, SIZE), f"{file}: {tuple(pixels.shape)}"
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, help="a folder; default: clips drawn here")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.videos:
            files = sorted(file for file in options.videos.rglob("*") if file.suffix.lower() in ENDINGS)
        else:
            files = list(draw(Path(folder)))
        totals = dict.fromkeys(WAYS, 0.0)
        for file in files:
            best = dict.fromkeys(WAYS, float("inf"))
            sizes = {form: len(stored(form, file).data) for form in FORMS}
            assert torch.equal(from_frames("exact", file), ours(file)), file
            for _ in range(options.rounds):
                for name, way in WAYS.items():
                    best[name] = min(best[name], seconds_of(way, file))
            difference = _difference(ours(file), plain(file))
            line = {name: round(1 / took, 2) for name, took in best.items()}
            print(
                json.dumps(
                    {
                        "file": file.name,
                        **line,
                        "bytes": {"file": file.stat().st_size, **sizes},
                        "ours_differs_from_plain": round(difference, 5),
                        "rounded_differs_from_ours": round(
                            _difference(ours(file), from_frames("rounded", file)), 5
                        ),
                    }
                ),
                flush=True,
            )
            totals = {name: totals[name] + took for name, took in best.items()}
    rates = {name: round(len(files) / took, 2) for name, took in totals.items()}
    print(json.dumps({"file": "all", **rates, "ratio": round(totals["plain"] / totals["ours"], 2)}))


if __name__ == "__main__":
    main()
