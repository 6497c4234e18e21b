"""Frames in the order in which a video shows them: containers that promise others, and files that are none."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import (
    boxes,
    clip,
    number_of,
    numbered,
    numbers,
    remuxed,
    sound_only,
    turned,
    with_edits,
)

from videollava.data.media import plain_video, video
from videollava.data.media.video import frame_indices, read_frames, survey_video
from videollava.errors import InputError


def spread(shown: list[int], frames: int = 8) -> list[int]:
    return [shown[index] for index in frame_indices(len(shown), frames)]


def check(data: bytes, shown: list[int]) -> None:
    """The video shows these numbers, whichever frames are asked for."""
    assert survey_video(data)[1] == len(shown)
    assert numbers(read_frames(data, 8)) == spread(shown)
    assert numbers(read_frames(data, len(shown))) == shown


@pytest.fixture(scope="module")
def whole() -> bytes:
    """Three seconds, a key frame each second."""
    return clip(90, g="30")


# --- Edit lists

COUNT = list(range(90))
EDITS: dict[str, tuple[list[tuple[float, float | None, int]], list[int]]] = {
    "all": ([(3, 0, 1)], COUNT),
    "the last two of three seconds": ([(2, 1, 1)], COUNT[30:]),
    "the first two": ([(2, 0, 1)], COUNT[:60]),
    "from between two key frames": ([(2.5, 0.5, 1)], COUNT[15:]),
    "the middle": ([(1, 0.5, 1)], COUNT[15:45]),
    "a pause first": ([(0.5, None, 1), (3, 0, 1)], COUNT),
    "a pause first, then a part": ([(0.5, None, 1), (2, 1, 1)], COUNT[30:]),
    "two parts": ([(1, 0, 1), (1, 2, 1)], COUNT[:30] + COUNT[60:]),
    "a part twice": ([(1, 0, 1), (1, 0, 1)], COUNT[:30] * 2),
    "one frame": ([(0.03, 1, 1)], COUNT[30:31]),
}


@pytest.mark.parametrize("name", EDITS)
def test_edit_lists_show_what_they_say(whole: bytes, name: str) -> None:
    edits, shown = EDITS[name]
    check(with_edits(whole, *edits), shown)


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ([(1, 2, 1), (1, 0, 1)], "out of order"),
        ([(1, 0, 2)], "another speed or standing still"),
        ([(1, 0, 0), (1, 0, 1)], "another speed or standing still"),
    ],
)
def test_edit_lists_that_are_not_followed_are_refused(
    whole: bytes, edits: list[tuple[float, float | None, int]], reason: str
) -> None:
    with pytest.raises(InputError, match=rf"v\.mp4: .*{reason}.*re-encode it as H\.264"):
        read_frames(with_edits(whole, *edits), 8, "v.mp4")


def test_edits_of_a_fragmented_file() -> None:
    parts = remuxed(clip(90, g="30"), "mp4", movflags="frag_keyframe+delay_moov+default_base_moof")
    check(parts, COUNT)
    check(with_edits(parts, (0, 1, 1)), COUNT[30:])
    with pytest.raises(InputError, match="several parts of its fragments"):
        read_frames(with_edits(parts, (1, 0, 1), (1, 2, 1)), 8)


# --- Where streams begin


def open_groups() -> bytes:
    return clip(60, **{"x264-params": "open-gop=1:keyint=20:scenecut=0:bframes=3"})


@pytest.mark.parametrize("kind", ["matroska", "mp4", "mpegts"])
def test_a_stream_that_begins_between_key_frames(kind: str) -> None:
    cut = remuxed(clip(60, g="20", sc_threshold="0"), kind, first=1)
    check(cut, list(range(20, 60)))


def test_leading_frames_without_what_they_build_on() -> None:
    av = pytest.importorskip("av")

    data = open_groups()
    check(data, list(range(60)))
    with av.open(io.BytesIO(data)) as container:
        shown = [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    cut = numbers(read_frames(remuxed(data, "matroska", first=5), 60))
    assert cut == sorted(cut)
    assert set(cut) <= set(shown)


def test_refresh_without_key_frames() -> None:
    check(
        clip(60, **{"x264-params": "intra-refresh=1:keyint=15:bframes=0:scenecut=0"}),
        list(range(60)),
    )


def test_recordings_joined_one_after_the_other() -> None:
    first, second = clip(60, "mpegts", g="20"), clip(30, "mpegts", g="20")
    check(first + second, [*range(60), *range(30)])
    check(second + second, [*range(30), *range(30)])


# --- Containers that count, miscount or do not count

KINDS = {
    "mkv": ("matroska", "libx264", "yuv420p", {}),
    "vp8": ("webm", "libvpx", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "20"}),
    "vp9": ("webm", "libvpx-vp9", "yuv420p", {}),
    "mpeg-4": ("mp4", "mpeg4", "yuv420p", {"bf": "2"}),
    "avi": ("avi", "mpeg4", "yuv420p", {"bf": "2"}),
    "avi of h.264": ("avi", "libx264", "yuv420p", {}),
    "avi of jpegs": ("avi", "mjpeg", "yuvj420p", {}),
    "mov of jpegs": ("mov", "mjpeg", "yuvj420p", {}),
    "ts": ("mpegts", "libx264", "yuv420p", {}),
    "ps": ("mpeg", "mpeg2video", "yuv420p", {}),
    "flv": ("flv", "libx264", "yuv420p", {}),
    "wmv": ("asf", "wmv2", "yuv420p", {}),
    "gif": ("gif", "gif", "rgb8", {}),
    "raw": ("h264", "libx264", "yuv420p", {}),
    "10 bits": ("mp4", "libx264", "yuv420p10le", {}),
}


@pytest.mark.parametrize("frames", [1, 2, 45])
@pytest.mark.parametrize("name", KINDS)
def test_containers(name: str, frames: int) -> None:
    kind, codec, pix, options = KINDS[name]
    check(clip(frames, kind, codec, pix=pix, **options), list(range(frames)))


@pytest.mark.parametrize("count", [30, 100])
def test_an_avi_that_miscounts(count: int) -> None:
    data = bytearray(clip(60, "avi", "mpeg4"))
    place = data.find(b"strh") + 8 + 32
    data[place : place + 4] = struct.pack("<I", count)
    check(bytes(data), list(range(60)))


@pytest.mark.parametrize(("box", "count"), [(b"stsz", 60), (b"stts", 200)])
def test_an_mp4_that_miscounts_is_refused(whole: bytes, box: bytes, count: int) -> None:
    data = bytearray(whole)
    place = data.find(box) + 12
    data[place : place + 4] = struct.pack(">I", count)
    with pytest.raises(InputError, match="its header counts"):
        read_frames(bytes(data), 8)


def test_uneven_times_are_no_matter() -> None:
    check(clip(40, "matroska", times=lambda index: index * index), list(range(40)))


def test_a_recorder_that_never_seeks_back() -> None:
    av = pytest.importorskip("av")

    class Pipe:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with av.open(pipe, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for index in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(index), format="rgb24")))
        container.mux(stream.encode())
    check(pipe.data, list(range(20)))


@pytest.mark.parametrize(
    "kind", ["mp4", "front", "fragments", "matroska", "webm", "avi", "flv", "asf", "gif"]
)
def test_a_stream_that_ends_early_is_refused(kind: str, tmp_path: Path) -> None:
    codecs = {"webm": "libvpx-vp9", "avi": "mpeg4", "asf": "wmv2", "gif": "gif"}
    if kind == "fragments":
        data = remuxed(clip(60, g="10"), "mp4", movflags="frag_keyframe+empty_moov")
    elif kind == "front":
        data = header_first(clip(60, g="10"), tmp_path)
    else:
        data = clip(60, kind, codecs.get(kind, "libx264"), pix="rgb8" if kind == "gif" else "yuv420p")
    assert survey_video(data)[1] == 60
    with pytest.raises(InputError, match=r"v: cannot be read as video \(cut short: .+\): \w+"):
        read_frames(data[: len(data) * 2 // 3], 8, "v")


def header_first(data: bytes, folder: Path) -> bytes:
    av = pytest.importorskip("av")

    moved = folder / "moved.mp4"  # FFmpeg opens it once more to move the header
    with (
        av.open(io.BytesIO(data)) as source,
        av.open(str(moved), "w", options={"movflags": "faststart"}) as to,
    ):
        stream = to.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                to.mux(packet)
    return moved.read_bytes()


def test_a_real_video_cut_short(shared: Path) -> None:
    data = (shared / "media" / "video" / "sample_demo_3.mp4").read_bytes()  # its header is in front
    with pytest.raises(InputError, match=r"cut short: \d+ of 146 frames"):
        read_frames(data[: len(data) * 2 // 3], 8)


# --- Which stream


def streams(cover: bool, second: bool) -> bytes:
    av = pytest.importorskip("av")

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        if cover:
            picture = container.add_stream("mjpeg", rate=30)
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        sizes = [(128, 64), (64, 32)][: 1 + second]
        tracks = [container.add_stream("libx264", rate=30) for _ in sizes]
        for track, (width, height) in zip(tracks, sizes, strict=True):
            track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        if cover:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(numbered(255, 64, 64), format="rgb24")))
        for index in range(20):
            for track in tracks:
                shown = numbered(index if track is tracks[0] else 0, track.width, track.height)
                container.mux(track.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        for track in tracks:
            container.mux(track.encode())
    return file.getvalue()


@pytest.mark.parametrize(("cover", "second"), [(True, False), (False, True), (True, True)])
def test_the_stream_that_a_player_shows(cover: bool, second: bool) -> None:
    check(streams(cover, second), list(range(20)))


# --- As before


@pytest.mark.parametrize("name", ["sample_demo_22.mp4", "sample_demo_3.mp4", "video_0.mp4"])
def test_whole_files_are_to_the_bit_what_decord_gives(
    shared: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decord = pytest.importorskip("decord")

    path = shared / "media" / "video" / name
    frames = read_frames(path, 8)
    assert frames.dtype == np.uint8
    assert np.array_equal(read_frames(path.read_bytes(), 8), frames)
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    assert np.array_equal(reader.get_batch(frame_indices(len(reader), 8)).asnumpy(), frames)
    monkeypatch.setitem(sys.modules, "decord", None)
    assert np.array_equal(read_frames(path, 8), frames)  # by PyAV


def test_decord_reads_plain_files_alone(monkeypatch: pytest.MonkeyPatch, whole: bytes) -> None:
    read: list[bool] = []

    def note(*given: Any) -> Any:
        found = plain_video.read_plain(*given)
        read.append(found is not None)
        return found

    monkeypatch.setattr(video, "read_plain", note)
    read_frames(whole, 8)
    read_frames(clip(45, kind="matroska"), 8)
    assert read == [True, True]
    for other in (
        with_edits(whole, (2, 1, 1)),
        clip(8, codec="mpeg4", bf="2"),
        clip(8, pix="yuv420p10le"),
        clip(8, kind="mpegts"),
        open_groups(),
        clip(8, kind="flv", bf="2"),
        remuxed(clip(8), "mp4", movflags="frag_keyframe+empty_moov"),
        clip(8, **{"x264-params": "tff=1"}),
        clip(8, **{"x264-params": "crop-rect=8,4,0,0"}),
    ):
        read_frames(other, 3)
    assert read == [True, True]


def test_the_last_picture_of_a_flash_file() -> None:
    check(clip(30, kind="flv", bf="3", g="12"), list(range(30)))


def test_what_a_picture_cuts_off_is_not_shown() -> None:
    data = clip(4, **{"x264-params": "crop-rect=16,0,0,0:qp=0"})
    assert np.array_equal(read_frames(data, 4), read_frames(clip(4, **{"x264-params": "qp=0"}), 4)[:, :, 16:])


def with_sequence_header(data: bytes, other: bytes) -> bytes:
    """The clip, with the other one's parameters before its second key frame's units."""
    av = pytest.importorskip("av")

    with av.open(io.BytesIO(other)) as source:
        header = source.streams.video[0].codec_context.extradata
    units = struct.pack(">I", int.from_bytes(header[6:8])) + header[8 : 8 + int.from_bytes(header[6:8])]
    file, keys = io.BytesIO(), 0
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                keys += packet.is_keyframe
                changed = av.Packet(
                    units + bytes(packet) if packet.is_keyframe and keys == 2 else bytes(packet)
                )
                changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                changed.is_keyframe, changed.stream = packet.is_keyframe, stream
                target.mux(changed)
    return file.getvalue()


def test_another_sequence_header_in_the_stream_is_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    data, asked = clip(30, g="10"), []
    monkeypatch.setattr(video, "read_plain", lambda *given: asked.append(given))
    read_frames(with_sequence_header(data, data), 3)
    assert len(asked) == 1  # the same one again is
    read_frames(with_sequence_header(data, clip(2, g="10", level="5.1")), 3)
    assert len(asked) == 1


@pytest.mark.parametrize("width", [*range(64, 132, 2), 322])
def test_both_decoders_give_the_same_numbers(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = clip(9, width=width, height=66)
    ours = read_frames(data, 4)
    monkeypatch.setitem(sys.modules, "decord", None)
    assert np.array_equal(read_frames(data, 4), ours)


def test_rotation_is_applied() -> None:
    data = clip(2)
    upright, right = read_frames(data, 2), (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    assert np.array_equal(read_frames(turned(data, right), 2), np.rot90(upright, 3, (1, 2)))
    frames, total = survey_video(turned(data, right))
    assert (frames.shape[2], frames.shape[1], total) == (64, 128, 2)


@pytest.mark.parametrize(("width", "height"), [(72, 64), (322, 242), (130, 98)])
def test_odd_sizes(width: int, height: int) -> None:
    assert read_frames(clip(4, width=width, height=height), 4).shape == (4, height, width, 3)


def test_av1() -> None:
    av = pytest.importorskip("av")

    if "libsvtav1" not in av.codecs_available:
        pytest.skip("this PyAV cannot write AV1")
    written = clip(8, codec="libsvtav1")
    if hasattr(os, "sched_setscheduler"):
        # Run as root the encoder puts this thread, and what it starts later, above everything else on the machine.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    check(written, list(range(8)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (bytes, "it is empty"),
        (lambda: b"hello" * 100, "it is text"),
        (lambda: bytes(5000), "nothing but zeros"),
        (sound_only, "no video stream"),
        (lambda: sound_only("mp3", "libmp3lame"), "it is an MP3 file"),
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(90), "it is a PNG picture"),
    ],
)
def test_what_is_no_video_is_called_by_its_name(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(InputError, match=rf"v\.mp4: cannot be read as video \(.*{reason}.*\): \w+"):
        read_frames(make(), 8, "v.mp4")


def test_frames_of_changing_size_are_refused() -> None:
    joined = clip(20, "mpegts", "mpeg2video") + clip(20, "mpegts", "mpeg2video", width=256)
    with pytest.raises(InputError, match="change size"):
        read_frames(joined, 8)


def test_a_decoder_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(video, "_read_shown", lambda *rest: ended.wait(30))
    monkeypatch.setattr(video, "DECODE_SECONDS", 0.01)
    with pytest.raises(InputError, match="not decoded after"):
        read_frames(clip(3), 3)
    ended.set()


def test_a_long_decoding_ends_in_time(monkeypatch: pytest.MonkeyPatch, whole: bytes) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)  # nothing of its can be ended before its time
    monkeypatch.setattr(video, "DECODE_SECONDS", -1.0)
    monkeypatch.setattr(video, "_limited", lambda call, seconds: call())
    with pytest.raises(InputError, match="not decoded after"):
        read_frames(whole, 8)


def test_without_av_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = clip(3)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"v\.mp4: cannot be read as video \(.+\): install av"):
        read_frames(data, 3, "v.mp4")


def test_decord_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    assert numbers(read_frames(clip(3), 3)) == [0, 1, 2]


# --- Nothing else is opened


def track_of(data: bytearray, wanted: bytes) -> int:
    """Where a box's content begins."""
    return data.find(wanted) + 4


def test_pictures_in_another_file_are_refused(whole: bytes) -> None:
    data = bytearray(whole)
    entry = track_of(data, b"url ")
    data[entry : entry + 4] = bytes(4)  # no longer "in this file", and no name: harmless
    check(bytes(data), COUNT)
    movie = next(box for box in boxes(data, 0, len(data)) if box[0] == b"moov")
    outer = [data.find(name) - 4 for name in (b"trak", b"mdia", b"minf", b"dinf", b"dref", b"url ")]
    link = b"http://127.0.0.1:9/a.mp4\x00"
    for place in (movie[1], *outer):
        data[place : place + 4] = struct.pack(
            ">I", int.from_bytes(data[place : place + 4], "big") + len(link)
        )
    data[entry + 4 : entry + 4] = link
    with pytest.raises(InputError, match=r"lie in another file\): join them into one mp4"):
        read_frames(bytes(data), 8)


def test_protected_videos_are_refused(whole: bytes) -> None:
    with pytest.raises(InputError, match=r"it is encrypted\): give a copy without protection"):
        read_frames(whole.replace(b"avc1\x00\x00\x00\x00", b"encv\x00\x00\x00\x00"), 8)


def test_names_that_ffmpeg_would_read_as_patterns(tmp_path: Path) -> None:
    data: Any = clip(5)
    for name in ("a%03d.png", "concat:b|c.mp4", "subfile,,start,1,:d.mp4", "-e.m3u8"):
        (tmp_path / name).write_bytes(data)
        assert numbers(read_frames(tmp_path / name, 5)) == list(range(5))


def test_pictures_that_vp8_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")

    file = io.BytesIO()
    with (
        av.open(io.BytesIO(clip(30, "webm", "libvpx"))) as source,
        av.open(file, "w", format="webm") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.size:
                data = bytearray(bytes(packet))
                data[0] &= 0xFF if index != 10 else ~0x10
                changed = av.Packet(bytes(data))
                changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                changed.is_keyframe, changed.stream = packet.is_keyframe, stream
                target.mux(changed)
    check(file.getvalue(), [number for number in range(30) if number != 10])
    monkeypatch.setattr(video, "_play", None)
    assert numbers(read_frames(file.getvalue(), 29)) == [n for n in range(30) if n != 10]
