"""Frames of a video, in the order in which it shows them.

What a video shows is decided once, from the timestamps of its packets: edit lists hide pictures, recordings begin
between two of them, headers count wrongly. Files whose packets tell it all are read by seeking, and each frame's
timestamp is compared with the one asked for; of all others every picture is decoded and counted.

Plain files, which is nearly all, are then decoded by decord, as in the original (`plain_video`), everything else by
PyAV, whose FFmpeg is of today: decord 0.6 gives other frames where an edit list hides some and where B-frames of some
codecs follow a seek. Where both read a file their numbers are the same.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from threading import Thread
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from videollava.data.media.admission.containers import AVI, ISO, MATROSKA, Container
from videollava.data.media.admission.opening import Source, open_medium, refuse_others, unreadable
from videollava.data.media.plain_video import is_plain, keeps_plain, read_plain

__all__ = ["frame_indices", "read_frames", "survey_video"]

T = TypeVar("T")
Frames = NDArray[np.uint8]
Choose = Callable[[int], Sequence[int]]

DECODE_SECONDS = 60.0
# Codecs whose every packet shows one picture, as VP8's first byte says too. MPEG-4 in AVI may pack two into one: then
# an empty packet follows.
_VP8_SHOWN, _EMPTY = 0x10, 20
_A_PICTURE_EACH = {
    "h264",
    "hevc",
    "vp8",
    "vp9",
    "av1",
    "mpeg4",
    "mjpeg",
    "png",
    "prores",
    "gif",
    "flv1",
    "wmv1",
    "wmv2",
}
_NO_INDEX = {"mpegts", "mpeg", "mpegvideo", "h264", "hevc"}  # streams that are sought by guessing
_FLAWED = {"mpegts", "mpeg"}  # recordings off the air: broken packets are their normal state


def read_frames(source: Source, frames: int, where: str = "") -> Frames:
    """Decode `frames` frames spread evenly over a video, first and last included: uint8 (T, H, W, 3).

    Frames come by their place among those shown, so one repeats where the video has fewer, as in the original.
    One thread decodes: workers are what runs in parallel.

    Raises:
        InputError: no decodable video, or one that holds less than it promises.
    """
    return _read(source, lambda total: frame_indices(total, frames).tolist(), where)[0]


def survey_video(source: Source, where: str = "") -> tuple[Frames, int]:
    """The first, the middle and the last frame, and how many are shown; errors as read_frames."""
    return _read(source, lambda total: [0, total // 2, total - 1], where)


def frame_indices(total: int, frames: int) -> NDArray[np.int64]:
    """Which frames of `total` are taken: linspace(0, total - 1, frames), cut to integers."""
    return np.linspace(0, total - 1, frames, dtype=int)


def _read(source: Source, choose: Choose, where: str) -> tuple[Frames, int]:
    file, container = open_medium(source, "video", where)
    with file:
        try:
            return _limited(lambda: _read_shown(file, container, choose), DECODE_SECONDS)
        except ImportError as error:
            raise unreadable(source, where, "video", error, "install av") from error
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            raise unreadable(source, where, "video", error) from error


def _read_shown(file: BinaryIO, container: Container, choose: Choose) -> tuple[Frames, int]:
    import av

    until = time.monotonic() + DECODE_SECONDS
    try:
        with _opened(file, container) as (demuxer, stream):
            timeline = _scan(demuxer, stream, container)
            total = len(timeline.shown)
            if timeline.tells_all and total:
                chosen = choose(total)
                found = read_plain(file, _seconds(stream, timeline), chosen) if timeline.plain else None
                if found is None:
                    found = _seek(demuxer, stream, timeline, chosen, until)
                if found is not None:
                    return found, total
        return _play(file, container, timeline.expected, choose, until)
    except (av.FFmpegError, EOFError, LookupError) as error:
        raise ValueError(getattr(error, "strerror", None) or str(error)) from error


@contextmanager
def _opened(file: BinaryIO, container: Container) -> Iterator[tuple[Any, Any]]:
    """The container and the stream that a player would show."""
    import av

    file.seek(0)
    with av.open(file, format=container.demuxer, io_open=refuse_others) as demuxer:
        stream = demuxer.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise ValueError("it has no video stream that can be decoded")
        if stream.disposition & av.stream.Disposition.attached_pic:
            raise ValueError("its only picture is a cover")
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= av.codec.context.Flags.unaligned  # else a crop at the left is not exact
        yield demuxer, stream


@dataclass(frozen=True)
class _Timeline:
    """What a stream's packets say is shown.

    shown: timestamps of the pictures, in order; keys: where decoding can begin; expected: pictures, as a guess
    where `tells_all` is False: then only decoding tells. plain: decord may read the file.
    """

    shown: Sequence[int]
    keys: Sequence[int]
    expected: int
    tells_all: bool
    plain: bool = False


def _scan(demuxer: Any, stream: Any, container: Container) -> _Timeline:
    """Read every packet and decode none."""
    packets = []
    damaged = packed = False
    vp8, avi = stream.codec_context.name == "vp8", container is AVI
    plain = container in (ISO, MATROSKA) and is_plain(stream.codec_context)
    header = stream.codec_context.extradata if plain else b""
    for packet in demuxer.demux(stream):
        if packet.size:
            hidden = packet.is_discard or (vp8 and not memoryview(packet)[0] & _VP8_SHOWN)
            packets.append((packet.pts, packet.dts, packet.is_keyframe, hidden))
            damaged = damaged or packet.is_corrupt
            packed = packed or (avi and packet.size < _EMPTY)
            plain = plain and keeps_plain(bytes(packet), header, packet.is_keyframe)
    _check_complete(stream, container, len(packets), damaged)
    times = [pts for pts, _, _, _ in packets]
    if None in times or len(set(times)) < len(times) or not packets[0][2]:
        return _Timeline((), (), sum(not packet[3] for packet in packets), False)
    begins = 0 if container is ISO else min(times)  # the time of an edit list begins at 0
    shown = sorted(pts for pts, _, _, hidden in packets if not hidden and pts >= begins)
    keys = sorted(pts for pts, _, key, _ in packets if key)
    whole = plain and len(shown) == len(packets)
    if container is ISO:  # fragments are not in its header
        whole = whole and stream.frames == len(packets)
    return _Timeline(shown, keys, len(shown), not packed and _tells_all(packets, stream, container), whole)


def _seconds(stream: Any, timeline: _Timeline) -> list[float]:
    return [float(pts * stream.time_base) for pts in timeline.shown]


def _tells_all(packets: Sequence[tuple[int, Any, bool, bool]], stream: Any, container: Container) -> bool:
    decoded = [dts for _, dts, _, _ in packets if dts is not None]
    return (
        stream.codec_context.codec.canonical_name in _A_PICTURE_EACH
        and container.demuxer not in _NO_INDEX
        and packets[0][0] == min(pts for pts, _, _, _ in packets)
        and all(a < b for a, b in pairwise(decoded))
    )


def _check_complete(stream: Any, container: Container, found: int, damaged: bool) -> None:
    # FFmpeg's index of ISO media is what edit lists leave of the header's count.
    promised = len(stream.index_entries) if container is ISO else 0
    if found < promised:
        raise ValueError(f"cut short: {found} of {promised} frames")
    if not found:
        raise ValueError("no frames")
    if damaged and container.demuxer not in _FLAWED:
        raise ValueError(f"cut short: the last of its {found} frames is not whole")


def _seek(
    demuxer: Any, stream: Any, timeline: _Timeline, chosen: Sequence[int], until: float
) -> Frames | None:
    """The chosen pictures by their timestamps; None where the decoder gives another one."""
    import av

    pictures: dict[int, Frames] = {}
    decoded: Iterator[Any] = iter(())
    at: int | None = None
    for index in dict.fromkeys(chosen):
        wanted = timeline.shown[index]
        key = timeline.keys[max(0, bisect_right(timeline.keys, wanted) - 1)]
        if at is None or key > at:
            demuxer.seek(key, stream=stream)
            decoded = demuxer.decode(stream)
        try:
            frame = next(
                frame for frame in _timed(decoded, until) if frame.pts is None or frame.pts >= wanted
            )
        except (StopIteration, av.InvalidDataError):
            return None
        at = frame.pts
        if at != wanted or frame.is_corrupt:
            return None
        pictures[index] = _picture(frame)
    return _stack(pictures, chosen)


def _play(
    file: BinaryIO, container: Container, expected: int, choose: Choose, until: float
) -> tuple[Frames, int]:
    """Decode everything, as a player does; again where the guess at the number of pictures was wrong."""
    total = expected
    for _ in range(2):
        chosen = choose(total) if total else []
        wanted = set(chosen)
        pictures: dict[int, Frames] = {}
        count = 0
        for frame in _timed(_played(file, container), until):
            if count in wanted:
                pictures[count] = _picture(frame)
            count += 1
        if count == total and count:
            return _stack(pictures, chosen), total
        total = count
    raise ValueError("none of its frames can be decoded" if not total else "it decodes differently each time")


def _played(file: BinaryIO, container: Container) -> Iterator[Any]:
    """Every picture that is shown, from the first key frame on."""
    with _opened(file, container) as (demuxer, stream):
        shows = False
        last: int | None = None
        for frame in _decoded(demuxer, stream):
            shows = shows or not frame.is_corrupt
            early = container is ISO and frame.pts is not None and frame.pts < 0
            if early or not shows:
                continue
            if container is ISO and last is not None and frame.pts is not None and frame.pts <= last:
                raise ValueError("its frames come out of order")
            last = frame.pts
            yield frame


def _decoded(demuxer: Any, stream: Any) -> Iterator[Any]:
    """What the decoder gives from the first key frame on, without those H.264 frames that need ones before it."""
    begins: int | None = None
    started = False
    for packet in demuxer.demux(stream):
        if packet.is_keyframe and not started:
            started = True
            begins = packet.pts if stream.codec_context.name == "h264" else None
        for frame in packet.decode() if started else ():
            if begins is not None and frame.pts is not None and frame.pts < begins:
                continue
            begins = None
            yield frame


def _timed(frames: Iterator[Any], until: float) -> Iterator[Any]:
    for frame in frames:
        if time.monotonic() > until:
            raise TimeoutError(f"not decoded after {DECODE_SECONDS:.0f} s")
        yield frame


def _picture(frame: Any) -> Frames:
    """uint8 (H, W, 3), turned as a player turns it."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def _stack(pictures: dict[int, Frames], chosen: Sequence[int]) -> Frames:
    sizes = {picture.shape[1::-1] for picture in pictures.values()}
    if len(sizes) > 1:
        raise ValueError(
            f"its frames change size: {', '.join(f'{width} x {height}' for width, height in sorted(sizes))}"
        )
    return np.stack([pictures[index] for index in chosen])


def _limited(call: Callable[[], T], seconds: float) -> T:
    """The result of `call`; TimeoutError after `seconds`.

    A decoder that spins inside its library can't be interrupted: its thread is left behind, so that the file
    costs a core until this process ends, not the whole run.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # raised again where the result is asked for
            result.set_exception(error)

    Thread(target=run, name="decoder", daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(f"not decoded after {seconds:.0f} s") from error
