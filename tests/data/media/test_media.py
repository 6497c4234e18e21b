"""Media: the original's pixels to the last digit that counts, and files that are not what they claim."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from videollava.data.media import read as media
from videollava.data.media.pixels import CLIP_MEAN, CLIP_STD, normalise
from videollava.data.media.read import (
    depth_to_pixels,
    frame_indices,
    frames_to_pixels,
    image_to_pixels,
    load_pixels,
    read_depth,
    read_frames,
    read_image,
)
from videollava.errors import InputError

TOLERANCE = 2e-3  # the references are float16
FINE = 7e-5  # of pixels in steps of 1/128, normalised
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
CASES = [
    "audio_0.wav",
    "depth_0.png",
    "extreme_ironing.jpg",
    "image_0.jpg",
    "sample_demo_1.mp4",
    "thermal_0.jpg",
    "video_0.mp4",
]


def noise(height: int, width: int, *, frames: int = 0, seed: int = 0) -> np.ndarray[Any, Any]:
    shape = (frames, height, width, 3) if frames else (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", CASES)
def test_reference_media(shared: Path, name: str) -> None:
    from safetensors import safe_open

    kind = json.loads((shared / "reference" / "media.json").read_text())[name]["kind"]
    with safe_open(shared / "reference" / "media.safetensors", "pt") as file:
        expected = file.get_tensor(f"{name}.pixel_values").float()
    path = shared / "media" / kind / name
    pixels = load_pixels(kind, path, 224)
    assert pixels.dtype == (torch.float32 if kind in ("audio", "depth") else torch.int16)
    assert pixels.is_contiguous()
    normal = normalise(pixels)
    torch.testing.assert_close(
        normal.transpose(0, 1) if kind == "video" else normal, expected, rtol=0, atol=TOLERANCE
    )
    assert torch.equal(load_pixels(kind, path.read_bytes(), 224), pixels)


def test_reference_frame_indices(shared: Path) -> None:
    for case in json.loads((shared / "reference" / "media.json").read_text()).values():
        if case["kind"] == "video":
            assert frame_indices(case["frames"], 8).tolist() == case["indices"]
    assert frame_indices(2, 8).tolist() == [0, 0, 0, 0, 0, 0, 0, 1]
    assert frame_indices(9, 1).tolist() == [0]


@pytest.mark.parametrize("name", ["image/desert.jpg", "image/sample_img_13.png", "image/sample_img_22.png"])
def test_alpha_is_dropped_as_the_original_does(shared: Path, name: str) -> None:
    path = shared / "media" / name
    image = read_image(path)
    with Image.open(path) as original:
        assert original.mode == "RGBA"
        assert np.array_equal(np.array(image), np.array(original.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    original = Image.fromarray(noise(9, 7)).convert(mode)
    image = read_image(saved(original, "JPEG" if mode == "CMYK" else "PNG"))
    assert (image.mode, image.size) == ("RGB", (7, 9))
    if mode != "CMYK":
        assert np.array_equal(np.array(image), np.array(original.convert("RGB")))


def test_palette_with_alpha() -> None:
    original = Image.fromarray(noise(9, 7)).convert("P")
    image = read_image(saved(original, transparency=bytes(range(256))))
    assert np.array_equal(np.array(image), np.array(original.convert("RGB")))


def test_16_bit_grey_is_scaled() -> None:
    image = read_image(saved(Image.fromarray(np.array([[0, 256, 32768, 65535]], np.uint16))))
    assert np.array(image)[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


def test_exif_orientation_is_left_alone() -> None:
    exif = Image.Exif()
    exif[274] = 6
    assert read_image(saved(Image.fromarray(noise(9, 7)), "JPEG", exif=exif)).size == (7, 9)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims this size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_000, 40_000])
@pytest.mark.parametrize("warned", ["ignore", "error"])
def test_bombs_are_refused(side: int, warned: Literal["ignore", "error"]) -> None:
    with (
        warnings.catch_warnings(action=warned),
        pytest.raises(InputError, match=r"a\.png: too large an image .* scale it down"),
    ):
        read_image(bomb(side, side), "a.png")


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", saved(Image.fromarray(noise(50, 50)))[:2000], bomb(10, 10)],
    ids=["empty", "text", "truncated", "no pixels"],
)
def test_broken_images_are_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"a\.png: cannot be read as image .*leave it out"):
        read_image(data, "a.png")


def test_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    for read in (read_image, read_depth, lambda file: read_frames(file, 8)):
        with pytest.raises(InputError, match="gone: not found"):
            read(path)
        with pytest.raises(InputError, match="is a folder; name a file in it"):
            read(tmp_path)


def test_floats_are_brightness() -> None:
    shares = np.array([[0, 0.5], [0.25, 1]], np.float32)
    for values in (shares, np.round(shares * 255)):
        image = read_image(saved(Image.fromarray(values), "TIFF"))
        assert np.array(image)[..., 0].tolist() == [[0, 128], [64, 255]]
    with pytest.raises(InputError, match=r"not in 0\.\.1 .*normalisation"):
        read_image(saved(Image.fromarray(shares - 1), "TIFF"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%PDF-1.7", "it is a PDF"),
        (b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heic", "it is a HEIC picture"),
        (b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00mif1avif", "it is an AVIF picture"),
        (b'<?xml version="1.0"?>\n<!-- a -->\n<svg xmlns="x"></svg>', "it is an SVG drawing"),
        (b"\n<!DOCTYPE html><html>", "it is a web page, not the file that it links to"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (b"PK\x03\x04aaaa", "it is a zip archive"),
        (b"\x00" * 64, "nothing but zeros"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=rf"a\.png: cannot be read as image \(.*{reason}.*\): .+"):
        read_image(data, "a.png")


def squared(image: Image.Image) -> Image.Image:
    """LLaVA's padding, pixel by pixel."""
    width, height = image.size
    side = max(width, height)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = (122, 116, 104)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = np.array(image)
    return Image.fromarray(square)


@pytest.mark.parametrize(("width", "height"), [(40, 25), (25, 40), (30, 30), (64, 21)])
def test_padding_shows_the_whole_picture(width: int, height: int) -> None:
    image = Image.fromarray(noise(height, width))
    padded = image_to_pixels(image, 32, "pad")
    assert torch.equal(padded, image_to_pixels(squared(image), 32))
    cropped = image_to_pixels(image, 32)
    assert cropped.shape == padded.shape == (3, 32, 32)
    assert (width == height) == torch.equal(cropped, padded)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (97, 64), (64, 131), (40, 33), (480, 360)])
def test_images_as_the_original_transforms_them(width: int, height: int) -> None:
    image = Image.fromarray(noise(height, width))
    scaled = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    size = (int(64 * height / width), 64) if width <= height else (64, int(64 * width / height))
    resized = torch.nn.functional.interpolate(scaled, size=size, mode="bicubic", align_corners=False)[0]
    top, left = round((size[0] - 64) / 2), round((size[1] - 64) / 2)
    expected = (resized[:, top : top + 64, left : left + 64] - MEAN) / STD
    pixels = image_to_pixels(image, 64)
    assert pixels.dtype == (torch.uint8 if min(width, height) == 64 else torch.int16)
    torch.testing.assert_close(normalise(pixels), expected, rtol=0, atol=FINE)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 70), (70, 96), (201, 64)])
def test_videos_are_normalised_then_resized(width: int, height: int) -> None:
    frames = noise(height, width, frames=3)
    normal = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    size = (int(height / width * 64), 64) if width < height else (64, int(width / height * 64))
    resized = torch.nn.functional.interpolate(normal, size=size, mode="bilinear", align_corners=False)
    top, left = round((size[0] - 64) / 2), round((size[1] - 64) / 2)
    expected = resized[..., top : top + 64, left : left + 64]
    pixels = frames_to_pixels(frames, 64)
    assert pixels.shape == (3, 3, 64, 64)
    assert pixels.dtype == (torch.uint8 if height == 64 else torch.int16)
    torch.testing.assert_close(normalise(pixels), expected, rtol=0, atol=FINE)


def test_what_callers_hold_is_left_as_it_was() -> None:
    frames = noise(20, 30, frames=2)
    frames.flags.writeable = False
    for size in (10, 20):
        first = frames_to_pixels(frames[:, :, :20], size)
        assert torch.equal(frames_to_pixels(frames[:, :, :20], size), first)
    grey = Image.fromarray(noise(9, 9)).convert("L")
    assert torch.equal(image_to_pixels(grey, 9), image_to_pixels(grey.convert("RGB"), 9))


@pytest.mark.parametrize(("width", "height"), [(20_000, 1), (1, 20_000)])
def test_slivers_stay_small(monkeypatch: pytest.MonkeyPatch, width: int, height: int) -> None:
    monkeypatch.setattr(media, "MAX_SQUARE", 600)
    image = Image.new("RGB", (width, height), (255, 0, 0))
    for aspect in ("crop", "pad"):
        pixels = image_to_pixels(image, 32, aspect)  # type: ignore[arg-type]
        assert pixels.shape == (3, 32, 32)
        assert torch.isfinite(normalise(pixels)).all()


def test_depth_is_in_metres_up_to_ten() -> None:
    depth = np.array([[0, 5], [10_000, 40_000]], np.uint16)
    read = read_depth(saved(Image.fromarray(depth)))
    assert read.tolist() == depth.tolist()
    pixels = depth_to_pixels(read, 2)
    shares = torch.tensor([[0.001, 0.001], [1.0, 1.0]])
    torch.testing.assert_close(pixels, (shares.expand(3, 2, 2) - MEAN) / STD, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="16-bit PNG, one channel of millimetres, not RGB"):
        read_depth(saved(Image.fromarray(noise(4, 4))), "d.png")


def test_unknown_modality() -> None:
    with pytest.raises(
        InputError, match="no modality 'smell'; there are: image, video, depth, thermal, audio"
    ):
        load_pixels("smell", b"", 224)


def test_depth_in_metres_is_depth_in_millimetres(tmp_path: Path) -> None:
    millimetres = np.random.default_rng(0).integers(0, 12_000, (40, 50)).astype(np.uint16)
    metres = millimetres.astype(np.float32) / 1000
    unmeasured = np.where(millimetres == 0, np.nan, metres)
    expected = read_depth(saved(Image.fromarray(millimetres)))
    assert np.array_equal(expected, millimetres)
    tiff = saved(Image.fromarray(metres), "TIFF")
    for data in (
        tiff,
        npy(metres),
        npy(metres[None]),
        npy(metres[..., None]),
        npy(np.asfortranarray(metres)),
    ):
        np.testing.assert_allclose(read_depth(data), expected, rtol=1e-6)
    np.testing.assert_allclose(read_depth(npy(unmeasured.astype(np.float64))), expected, rtol=1e-6)
    assert np.array_equal(read_depth(npy(millimetres)), expected)
    assert np.array_equal(read_depth(npy(np.float32([[-1, np.inf, 0.5]]))), [[0, 0, 500]])
    (tmp_path / "0.npy").write_bytes(npy(metres))
    pixels = load_pixels("depth", tmp_path / "0.npy", 32)
    torch.testing.assert_close(pixels, depth_to_pixels(expected, 32), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda: npy(np.float32([[3000.0]])), "floats are metres and the largest is 3000"),
        (lambda: npy(np.zeros((4, 5, 3), np.float32)), r"not float32 \(4, 5, 3\)"),
        (lambda: npy(np.zeros((0, 5), np.uint16)), r"not uint16 \(0, 5\)"),
        (lambda: npy(np.array([["a"]])), "depth map is"),
        (lambda: npy(np.array([[{}]], object)), "depth map is"),
        (lambda: npy(np.zeros((9, 9), np.uint16))[:-1], "cannot be read as depth map .*save it again"),
        (
            lambda: npy(np.zeros((9, 9), np.uint16)).replace(b"(9, 9)", b"(9**9)"),
            "cannot be read as depth map",
        ),
        (
            lambda: npy(np.zeros((9, 9), np.uint16)).replace(b"(9, 9), ", b"(9, 99999)"),
            "cannot be read|not uint16",
        ),
        (lambda: b"\x93NUMPY\x09\x09" + bytes(40), "cannot be read as depth map"),
        (lambda: saved(Image.fromarray(noise(9, 7))), "one channel of millimetres, not RGB"),
    ],
)
def test_what_is_no_depth_map_is_refused(data: Any, reason: str) -> None:
    with pytest.raises(InputError, match=rf"d\.npy: .*{reason}"):
        read_depth(data(), "d.npy")


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()
