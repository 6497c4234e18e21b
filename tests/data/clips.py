"""Clips whose every frame shows its own number, and changes to them that containers promise or break."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

Picture = np.ndarray[Any, np.dtype[np.uint8]]
WIDTH, HEIGHT, RATE = 128, 64, 30
BITS = 8
TICKS = 15360  # a second of an mp4's track that this FFmpeg writes at RATE
DELAY = 1024  # and where its first frame stands, before the edit list takes that away


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> Picture:
    """Bright columns are the bits of `number`."""
    picture = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            picture[:, bit * width // BITS : (bit + 1) * width // BITS] = 230
    return picture


def number_of(frame: Picture) -> int:
    """Which number a decoded frame shows."""
    step = frame.shape[1] // BITS
    middle = [frame[:, bit * step + 4 : (bit + 1) * step - 4].mean() for bit in range(BITS)]
    return sum(1 << bit for bit, level in enumerate(middle) if level > 115)


def numbers(frames: Sequence[Picture] | Picture) -> list[int]:
    """Which numbers frames show."""
    return [number_of(frame) for frame in frames]


def clip(
    frames: int = 90,
    kind: str = "mp4",
    codec: str = "libx264",
    width: int = WIDTH,
    height: int = HEIGHT,
    pix: str = "yuv420p",
    times: Callable[[int], int] | None = None,
    **options: str,
) -> bytes:
    """A clip of numbered frames; `times` gives a frame's time in ticks of its rate."""
    av = pytest.importorskip("av")

    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(index, width, height), format="rgb24")
            if times is not None:
                frame.pts = times(index)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def remuxed(data: bytes, kind: str, first: int = 0, **options: str) -> bytes:
    """The packets from `first` on, in another container."""
    av = pytest.importorskip("av")

    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=kind, options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.size and index >= first:
                packet.stream = stream
                target.mux(packet)
    return file.getvalue()


def boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, place and size of the boxes of ISO media between two places."""
    while start < stop:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        yield kind, start, size
        start += size


def with_edits(data: bytes, *edits: tuple[float, float | None, int]) -> bytes:
    """The mp4 (its header last) with this edit list: seconds shown, second of the media (None: nothing), speed."""
    changed = bytearray(data)
    movie = next(box for box in boxes(changed, 0, len(changed)) if box[0] == b"moov")
    track = next(box for box in boxes(changed, movie[1] + 8, sum(movie[1:])) if box[0] == b"trak")
    old = next(box for box in boxes(changed, track[1] + 8, sum(track[1:])) if box[0] == b"edts")
    rows = [
        (round(shown * 1000), -1 if begins is None else round(begins * TICKS) + DELAY, speed, 0)
        for shown, begins, speed in edits
    ]
    body = struct.pack(">II", 0, len(rows)) + b"".join(struct.pack(">IiHH", *row) for row in rows)
    new = struct.pack(">I4sI4s", 16 + len(body), b"edts", 8 + len(body), b"elst") + body
    changed[old[1] : old[1] + old[2]] = new
    for _, place, size in (movie, track):
        changed[place : place + 4] = struct.pack(">I", size + len(new) - old[2])
    return bytes(changed)


def turned(data: bytes, matrix: tuple[int, ...]) -> bytes:
    """The mp4 with this rotation in its track header."""
    changed = bytearray(data)
    start = changed.find(b"tkhd") + 4 + 4 + 20 + 16
    changed[start : start + 36] = struct.pack(">9i", *matrix)
    return bytes(changed)


def sound_only(kind: str = "mp4", codec: str = "aac") -> bytes:
    """A second of silence."""
    av = pytest.importorskip("av")

    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
