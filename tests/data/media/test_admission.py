"""The admission room: what is recognised, and that no file makes a decoder open another one."""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import boxes, clip, numbers, sound_only
from made import archive_source, lines, llava, params, png, prepare, tar
from PIL import Image

from videollava.data.acquire import fetch
from videollava.data.media.admission import containers
from videollava.data.media.admission.addresses import Limits
from videollava.data.media.admission.given import Policy, listed, open_image, open_video
from videollava.data.media.read import load_pixels, read_frames
from videollava.data.prepare.inspection import inspect
from videollava.errors import InputError

ANY = Policy(Limits())


# --- Recognition


@pytest.mark.parametrize(
    ("head", "demuxer"),
    [
        (b"\x00\x00\x00\x14ftypisom", "mov"),
        (b"\x00\x00\x00\x08wide\x00\x00\x00\x08mdat", "mov"),
        (b"\x00\x00\x10\x00moov", "mov"),
        (b"\x00\x00\x00\x08free", "mov"),
        (b"\x00\x00\x00\x08skip", "mov"),
        (b"\x1aE\xdf\xa3\x01", "matroska"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "avi"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "wav"),
        (b"RF64\xff\xff\xff\xffWAVE", "wav"),
        ((b"\x47" + bytes(187)) * 5, "mpegts"),
        (bytes(4) + (b"\x47" + bytes(191)) * 5, "mpegts"),
        (bytes(60) + (b"\x47" + bytes(187)) * 20, "mpegts"),
        (b"\x00\x00\x01\xba\x44", "mpeg"),
        (b"\x00\x00\x01\xb3\x14", "mpegvideo"),
        (b"FLV\x01\x05", "flv"),
        (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), "asf"),
        (b"OggS\x00\x02", "ogg"),
        (b"GIF89a", "gif"),
        (b"\x00\x00\x00\x01\x67\x42", "h264"),
        (b"\x00\x00\x00\x01\x40\x01", "hevc"),
        (b"ID3\x04", "mp3"),
        (b"\xff\xfb\x90\x64", "mp3"),
        (b"\xff\xf1\x50\x80\x02\x1f\xfc", "aac"),
        (b"fLaC\x00", "flac"),
        (b"FORM\x00\x00\x00\x00AIFF", "aiff"),
    ],
)
def test_containers_are_known_by_their_first_bytes(head: bytes, demuxer: str) -> None:
    found = containers.recognise(head)
    assert found is not None
    assert found.demuxer == demuxer


@pytest.mark.parametrize(
    "head", [b"", b"#EXTM3U\n", b"v=0\r\n", b"ffconcat version 1.0\n", b"<MPD", b"G" * 100, b"\n#EXTM3U"]
)
def test_what_names_other_files_is_no_container(head: bytes) -> None:
    assert containers.recognise(head) is None


# --- Nothing is opened

Planted = tuple[str, list[str]]


@pytest.fixture
def planted() -> Iterator[Planted]:
    """A server that should hear nothing, and what it heard."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", heard
    running.shutdown()
    thread.join()
    running.server_close()


def elsewhere(link: bytes) -> bytes:
    """An mp4 whose pictures lie behind a link."""
    data = bytearray(clip(10))
    entry = data.find(b"url ") + 4
    data[entry : entry + 4] = bytes(4)
    movie = next(box for box in boxes(data, 0, len(data)) if box[0] == b"moov")
    outer = [data.find(name) - 4 for name in (b"trak", b"mdia", b"minf", b"dinf", b"dref", b"url ")]
    for place in (movie[1], *outer):
        data[place : place + 4] = struct.pack(
            ">I", int.from_bytes(data[place : place + 4], "big") + len(link)
        )
    data[entry + 4 : entry + 4] = link
    return bytes(data)


def lists_of(url: str) -> dict[str, bytes]:
    """Files that make FFmpeg open an address, for whoever believes them."""
    host, _, port = url.removeprefix("http://").partition(":")
    segments = f"#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}/a.ts\n#EXT-X-ENDLIST\n"
    master = f"#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}/b.m3u8\n"
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n'
    reference = struct.pack(">I4sI", 0, b"url ", len(url) + 1) + url.encode() + b"\x00"
    alias = (
        b"rmra"
        + struct.pack(">I4sI4s", 16 + len(reference), b"rmda", 8 + len(reference), b"rdrf")
        + reference
    )
    return {
        "hls": f"#EXTM3U\n{segments}".encode(),
        "hls master": f"#EXTM3U\n{master}".encode(),
        "hls with a key": f"#EXTM3U\n{key}{segments}".encode(),
        "hls after a mark": f"\ufeff#EXTM3U\n{segments}".encode(),
        "sdp": f"v=0\r\no=- 0 0 IN IP4 {host}\r\nc=IN IP4 {host}\r\nm=video {port} RTP/AVP 96\r\n".encode(),
        "ffconcat": f"ffconcat version 1.0\nfile '{url}/c.mp4'\n".encode(),
        "concat": f"file '{url}/c.mp4'\n".encode(),
        "dash": f'<?xml version="1.0"?>\n<MPD><BaseURL>{url}/</BaseURL></MPD>'.encode(),
        "asx": f'<ASX version="3.0"><entry><ref href="{url}/d.asf"/></entry></ASX>'.encode(),
        "pls": f"[playlist]\nFile1={url}/e.mp4\n".encode(),
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}/f.png"/></svg>'.encode(),
        "link in an mp4": elsewhere(url.encode() + b"/g.mp4\x00"),
        "reference movie": struct.pack(">I4sI", 16 + len(alias), b"moov", 4 + len(alias)) + alias,
        "gif and sdp": b"GIF89a\nc=IN IP4 127.0.0.1\nm=video 5 RTP/AVP 96\n",
        "box and hls": b"\x00\x00\x00\x08free#EXTM3U\n" + segments.encode(),
    }


KINDS = ("image", "video", "audio", "depth", "thermal")


def test_no_decoder_opens_an_address(planted: Planted, tmp_path: Path) -> None:
    url, heard = planted
    for name, data in lists_of(url).items():
        for ending in (".mp4", ".m3u8", ".sdp", ".avi"):
            path = tmp_path / f"{name}{ending}"
            path.write_bytes(data)
        for kind in KINDS:
            for source in (data, path):
                with pytest.raises(InputError, match=r"cannot be read as|is read here"):
                    load_pixels(kind, source, 32, where=name)
            assert inspect(name, kind, data).reason == f"broken {kind}"  # type: ignore[arg-type]
    assert heard == []


def test_no_decoder_opens_another_file(tmp_path: Path) -> None:
    """Names of files beside it, pipes among them: opening one would wait for ever."""
    os.mkfifo(tmp_path / "trap.mp4")
    for text in ("#EXTM3U\n#EXTINF:1,\ntrap.mp4\n", "ffconcat version 1.0\nfile 'trap.mp4'\n", "trap.mp4\n"):
        (tmp_path / "a.mp4").write_text(text)
        with pytest.raises(InputError, match=r"a\.mp4: cannot be read as video \(it is .+\): \w+"):
            read_frames(tmp_path / "a.mp4", 8)
    with pytest.raises(InputError, match="no file but a device or pipe"):
        read_frames(tmp_path / "trap.mp4", 8)


def test_preparation_quarantines_lists(planted: Planted, tmp_path: Path) -> None:
    """By the stages themselves, in the worker that one worker means."""
    url, heard = planted
    listed_files = {f"{number}.mp4": data for number, data in enumerate(lists_of(url).values())}
    members = {"good.png": png(), **listed_files}
    records = [llava("good", image="good.png"), *(llava(name, video=name) for name in listed_files)]
    source = archive_source(
        tar(tmp_path / "m.tar", members), lines(tmp_path / "a.jsonl", records), annotations="a.jsonl"
    )
    chosen = params(source, max_quarantined=1.0)
    fetch.run(chosen, tmp_path)
    prepare(chosen, tmp_path)
    assert heard == []
    report = "".join(file.read_text() for file in tmp_path.rglob("quarantine*") if file.is_file())
    assert report.count("broken video") >= len(listed_files)


# --- What callers give


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)).convert(mode)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_every_way_to_give_a_picture(tmp_path: Path) -> None:
    import base64

    image = picture()
    data, array = saved(image), np.asarray(image)
    (tmp_path / "a.png").write_bytes(data)
    text = base64.b64encode(data).decode()
    tensor = torch.from_numpy(array.copy())
    ways: list[Any] = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").as_uri(),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        (tmp_path / "a.png").open("rb"),
        image,
        array,
        tensor,
        tensor.permute(2, 0, 1),
        tensor.permute(2, 0, 1).float() / 255,
        (tensor.double() / 255).requires_grad_(),
        array.astype(np.int64),
        array.astype(np.float32) / 255,
        f"data:image/png;base64,{text}",
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(tmp_path / "a.png")},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}},
        {"b64": text},
    ]
    for number, way in enumerate(ways):
        (item,) = listed(way, "image", "q")
        assert np.array_equal(np.asarray(open_image(item, ANY, "q")), array), number
        assert len(listed([way, way], "image", "q")) == 2
    ways[7].close()
    assert listed(None, "image", "q") == listed([], "image", "q") == listed((), "video", "q") == []
    assert len(listed(np.stack([array] * 3), "image", "q")) == 3
    assert listed(np.array(["a", "b"]), "image", "q") == ["a", "b"]


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr", "HSV"]
)
def test_pictures_of_every_mode(mode: str) -> None:
    image = (
        Image.fromarray(np.full((4, 4), 65535, np.uint16))
        if mode == "I;16"
        else picture("L").convert(mode)
        if mode in "IF"
        else picture().convert("L").convert("P").convert(mode)
        if mode == "PA"
        else picture(mode)
    )
    rgb = open_image(image, ANY, "q")
    assert (rgb.mode, rgb.size) == ("RGB", image.size)
    if mode == "I;16":
        assert np.asarray(rgb).min() == 255
    if mode == "F":
        assert np.array_equal(np.asarray(rgb), np.asarray(picture("L").convert("RGB")))


def test_arrays_of_grey_and_alpha() -> None:
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    for form in (grey, grey[..., None], grey[None], grey.astype(np.float64) / 255):
        assert np.asarray(open_image(form, ANY, "q"))[..., 0].tolist() == grey.tolist()
    assert np.asarray(open_image(grey.astype(np.uint16) << 8, ANY, "q"))[..., 1].tolist() == grey.tolist()
    alpha = np.dstack([picture(), np.zeros((8, 12), np.uint8)])
    assert np.array_equal(np.asarray(open_image(alpha, ANY, "q")), np.asarray(picture()))


def test_every_way_to_give_a_video(tmp_path: Path) -> None:
    data = clip(9)
    frames = read_frames(data, 9)
    tensor = torch.from_numpy(frames)
    pictures = [Image.fromarray(frame) for frame in frames]
    ways: list[Any] = [
        data,
        io.BytesIO(data),
        frames,
        tensor,
        tensor.permute(0, 3, 1, 2),
        tensor.permute(3, 0, 1, 2),
        tensor.float() / 255,
        pictures,
        list(frames),
        tuple(tensor.permute(0, 3, 1, 2)),
    ]
    expected = read_frames(data, 4)
    assert numbers(expected) == [0, 2, 5, 8]
    for number, way in enumerate(ways):
        (item,) = listed(way, "video", "q")
        assert np.array_equal(open_video(item, 4, ANY, "q"), expected), number
    assert len(listed([pictures, pictures], "video", "q")) == 2
    assert len(listed(np.stack([frames] * 2), "video", "q")) == 2
    moving = saved(pictures[0], "GIF", save_all=True, append_images=pictures[1:])
    assert numbers(open_video(moving, 4, ANY, "q")) == [0, 2, 5, 8]
    assert numbers(open_video(Image.open(io.BytesIO(moving)), 4, ANY, "q")) == [0, 2, 5, 8]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (3, "int is no image; give a path"),
        (object(), "object is no image"),
        ("", "an empty text"),
        ("  ", "an empty text"),
        ("gone.png", r"gone\.png: not found"),
        (".", r": \.: is a folder; name a file in it"),
        ("a\x00b", "cannot be opened"),
        ("~nobody-here/x.png", "write the whole path"),
        (b"", "it is empty"),
        (b"hello", "it is text"),
        (b"%PDF-1.4", r"it is a PDF\): save its page as PNG"),
        (clip(3), r"it is an MP4 or QuickTime file\): give it as a video"),
        (sound_only("mp3", "libmp3lame"), r"it is an MP3 file\): give it as sound"),
        ("ftp://host/x.png", "only http and https addresses"),
        ("s3://bucket/x.png", "only http and https addresses"),
        ("javascript:alert(1)", "only http and https"),
        ("file://elsewhere/x.png", "another machine's file"),
        ("http://127.0.0.1:9/x.png", "not on the public internet"),
        (Path("http://127.0.0.1:9/x.png"), "not on the public internet"),
        ("data:image/png;base64,###", "its base64 is broken"),
        ([picture()], "a list within the list"),
        ({}, "a record with nothing is no image"),
        ({"caption": "x"}, "a record with caption is no image"),
        (io.StringIO("text"), "not bytes; open it with 'rb'"),
        (np.zeros((5, 5, 5), np.uint8), "give .H, W, 3."),
        (np.zeros((2, 4, 4, 3), np.uint8), "give .H, W, 3."),
        (np.zeros((0, 4, 3), np.uint8), "is no picture"),
        (np.zeros((4, 4), bool), "an array of bool"),
        (np.zeros((4, 4), np.complex64), "an array of complex64"),
        (np.full((4, 4, 3), -0.5), "undo its normalisation"),
        (np.full((4, 4, 3), np.nan), "undo its normalisation"),
        (np.full((4, 4, 3), 1 << 20), "are no brightness"),
    ],
)
def test_what_is_no_picture_is_a_sentence(given: Any, reason: str) -> None:
    with pytest.raises(InputError, match=rf"q.*{reason}"):
        open_image(given, ANY, "q")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (picture(), "a picture is no video; give it as an image"),
        (saved(picture()), "it is a PNG picture.*give it as an image"),
        ([], "0 frames are no video"),
        ([picture(), "a.png"], "frame 7 is str; give Pillow pictures"),
        ([picture(), picture().resize((5, 5))], r"frames of different sizes \(12 x 8, 5 x 5\)"),
        (np.zeros((4, 4, 3), np.uint8), "give .T, H, W, 3."),
        (np.zeros((2, 5, 5, 7), np.uint8), "give .T, H, W, 3."),
        (3.5, "float is no video"),
    ],
)
def test_what_is_no_video_is_a_sentence(given: Any, reason: str) -> None:
    with pytest.raises(InputError, match=rf"q.*{reason}"):
        open_video(given, 8, ANY, "q")


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.png").write_text("hello")
    with pytest.raises(InputError, match=r"^q: \S+/t\.png: cannot be read as image \(it is text\): "):
        open_image(tmp_path / "t.png", ANY, "q")
    with pytest.raises(InputError, match=r"^q: \S+/t\.png: cannot be read as video \(it is text\): "):
        open_video(tmp_path / "t.png", 8, ANY, "q")


def test_numbers_are_no_list_of_media() -> None:
    for given in (3, 2.5, object()):
        with pytest.raises(InputError, match="is no image; give a path"):
            listed(given, "image", "q")


def test_animations_are_no_images() -> None:
    two = [picture(), picture("L").convert("RGB")]
    for kind in ("GIF", "PNG", "WEBP"):
        moving = saved(two[0], kind, save_all=True, append_images=two[1:])
        for given in (moving, Image.open(io.BytesIO(moving))):
            with pytest.raises(InputError, match="2 frames in one image; give it as a video"):
                open_image(given, ANY, "q")
        assert open_image(saved(two[0], kind), ANY, "q").size == (12, 8)


def test_a_picture_that_breaks_when_it_is_loaded() -> None:
    with pytest.raises(InputError, match=r"q: the picture cannot be read \(.+\); open it again"):
        open_image(Image.open(io.BytesIO(saved(picture().resize((90, 90)))[:600])), ANY, "q")


def test_files_of_a_server_are_its_own(tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    for folder in (mine, others):
        folder.mkdir()
        picture().save(folder / "a.png")
    (mine / "link.png").symlink_to(others / "a.png")
    served, closed = Policy(Limits(), (mine,)), Policy(Limits(), ())
    assert open_image(mine / "a.png", served, "q").size == (12, 8)
    assert open_image({"path": str(mine / "a.png")}, served, "q").size == (12, 8)
    for path in (others / "a.png", mine / "link.png", mine / "../others/a.png", "/etc/hostname", "~/.ssh/id"):
        for given in (path, str(path), {"path": str(path)}):
            with pytest.raises(InputError, match="files of the server are not read for callers"):
                open_image(given, served, "q")
    with pytest.raises(InputError, match="files of the server"):
        open_video((others / "a.png").as_uri(), 8, closed, "q")
    assert open_image(saved(picture()), closed, "q").size == (12, 8)
