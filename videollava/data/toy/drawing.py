"""Draws the toy clips (see toy.py) and encodes them as H.264 in mp4."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videollava.data.toy.scenes import COLORS, STEPS, Scene

__all__ = ["draw", "encode", "lay_out", "shape_mask", "still"]

Frames = NDArray[np.uint8]
CONTRAST = 100.0  # least RGB distance between the shape and any pixel behind it


def draw(scene: Scene) -> Frames:
    """The frames of a clip, (T, H, W, 3) RGB."""
    return _draw(scene)[0]


def still(scene: Scene, side: int = 64) -> tuple[bytes, str]:
    """One frame's central square as PNG of `side` pixels, and where in it the shape is ("top left", "middle")."""
    from PIL import Image

    frames, middles = _draw(scene)
    chosen = int(np.random.default_rng([*scene.seed, 4]).integers(len(frames)))
    short = min(scene.width, scene.height)
    left, top = (scene.width - short) // 2, (scene.height - short) // 2
    picture = Image.fromarray(frames[chosen][top : top + short, left : left + short])
    file = io.BytesIO()
    picture.resize((side, side), Image.Resampling.BILINEAR).save(file, "PNG")
    x, y = middles[chosen]
    return file.getvalue(), _name_place((x - left) / short, (y - top) / short)


def _name_place(x: float, y: float) -> str:
    column, row = (min(2, int(3 * share)) for share in (x, y))
    words = [("top", "", "bottom")[row], ("left", "", "right")[column]]
    return " ".join(word for word in words if word) or "middle"


def _draw(scene: Scene) -> tuple[Frames, list[tuple[float, float]]]:
    """The frames, and the middle of the shape in each, in pixels."""
    back, covered, corners = lay_out(scene)
    color, mask = np.array(COLORS[scene.shows.color], np.float32), covered[..., None]
    height, width = covered.shape
    frames = np.empty((scene.frames, *back.shape), np.uint8)
    frames[:] = np.rint(back)
    for frame, (x, y) in zip(frames, corners, strict=True):
        part = frame[y : y + height, x : x + width]
        part[:] = np.rint(part * (1 - mask) + color * mask)
    return frames, [(x + width / 2, y + height / 2) for x, y in corners]


def lay_out(
    scene: Scene,
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[tuple[int, int]]]:
    """The background (H, W, 3), the shape's coverage (h, w), and its left upper corner in each frame, in pixels."""
    random = np.random.default_rng([*scene.seed, 3])
    back = _background(scene, np.array(COLORS[scene.shows.color], np.float32), random)
    mask = shape_mask(scene.shows.shape, scene.size, random)
    return back, mask, _path(scene, mask.shape[1], mask.shape[0], random)


def encode(frames: Frames, rate: int) -> bytes:
    """H.264 (4:2:0) in an mp4 file; the same frames give the same bytes."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "20", "threads": "1"}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def shape_mask(shape: str, size: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Coverage (0 to 1, edges smooth) of a shape whose longer side is `size` pixels."""
    width = height = size
    if shape == "rectangle":
        short = max(4, round(size * random.uniform(0.6, 1.0)))
        width, height = (short, size) if random.integers(2) else (size, short)
    fine = 4
    y, x = np.mgrid[0 : height * fine, 0 : width * fine]
    u, v = (x + 0.5) / (width * fine), (y + 0.5) / (height * fine)
    if shape == "circle":
        inside = (u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.25
    elif shape == "triangle":
        inside = np.abs(u - 0.5) <= v / 2
    else:
        inside = np.ones_like(u, bool)
    covered: NDArray[np.float32] = inside.reshape(height, fine, width, fine).mean((1, 3), dtype=np.float32)
    return covered


def _path(scene: Scene, width: int, height: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """Left upper corners, one a frame: the whole path lies in the central square of the picture."""
    side = min(scene.width, scene.height)
    margin = max(1, side // 40)
    left, top = (scene.width - side) // 2 + margin, (scene.height - side) // 2 + margin
    room = np.array([side - 2 * margin - width, side - 2 * margin - height], float)
    shares = [random.uniform(0.7, 1.0) for _ in scene.shows.motion]
    legs = [np.array(STEPS[way]) * share for way, share in zip(scene.shows.motion, shares, strict=True)]
    corners = np.cumsum([np.zeros(2), *legs], 0)
    # Slide the path, in units of the room there is, to a random place where all of it is inside.
    low, high = corners.min(0), corners.max(0)
    scale = 1 / np.maximum(high - low, 1)
    corners = (corners - low) * scale
    corners += random.uniform(0, 1, 2) * (1 - corners.max(0))
    rest = random.uniform(0, 0.08, 2)
    split = random.uniform(0.42, 0.58)
    times = [0, 1] if len(legs) == 1 else [0, split, 1]
    when = np.clip((np.linspace(0, 1, scene.frames) - rest[0]) / (1 - rest.sum()), 0, 1)
    places = np.stack([np.interp(when, times, corners[:, axis]) for axis in (0, 1)], 1) * room
    return [(left + round(x), top + round(y)) for x, y in places]


def _background(scene: Scene, color: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """A quiet picture (H, W, 3) of low saturation, mostly light, that keeps CONTRAST to the shape."""
    while True:
        light = random.random() < 0.75
        base = random.uniform(205, 250) if light else random.uniform(10, 60)
        tint = random.uniform(-9, 9, 3)
        texture = _texture(scene, random) * random.uniform(8, 22)
        picture = np.clip(base + tint + texture[..., None], 0, 255).astype(np.float32)
        if float(np.sqrt(((picture - color) ** 2).sum(-1)).min()) >= CONTRAST:
            return picture


def _texture(scene: Scene, random: np.random.Generator) -> NDArray[np.float64]:
    """A field (H, W) between -1 and 1: gradient, stripes, noise or blobs."""
    y, x = np.mgrid[0 : scene.height, 0 : scene.width] / max(scene.height, scene.width)
    angle = random.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    kind = random.integers(4)
    if kind == 0:
        field = (along - along.mean()) * 2
    elif kind == 1:
        field = np.sin(2 * np.pi * (random.uniform(3, 8) * along + random.random()))
    elif kind == 2:
        field = random.uniform(-1, 1, y.shape)
    else:
        field = np.zeros_like(y)
        for cx, cy, radius, height in random.uniform([0, 0, 0.08, -1], [1, 1, 0.25, 1], (6, 4)):
            field = field + height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2))
    return np.clip(field, -1, 1)
