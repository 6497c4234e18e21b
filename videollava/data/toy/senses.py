"""The same scenes as sound, depth map, thermal picture and picture: each tells colour, shape, size and motion in its
own way.

Sound: the pitch is the colour's, the wave form the shape's; up rises, down falls, right beats ever faster, left slower;
what is large hisses. Depth and thermal: the shape's trail, the nearer or the warmer the later; how far the wall or how
warm the air is, is the colour's. Picture: exposed for as long as the clip is, the trail fainter the older.
Everything follows from the scene alone.
"""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videollava.data.toy.drawing import lay_out
from videollava.data.toy.scenes import COLORS, Scene

__all__ = ["depth", "picture", "sound", "thermal"]

RATE = 16_000
SAMPLES = 20_720  # 128 windows of 25 ms, one every 10 ms
LOWEST, NOTE = 300.0, 2 ** (1 / 3)  # Hz, and from one colour's pitch to the next
HARMONICS = {"circle": (1.0,), "rectangle": (1.0, 0, 0.6, 0, 0.4), "triangle": (0.5, 1.0, 0.5)}
GLIDE = {"up": 0.5, "down": -0.5}  # octaves
BEATS = {"left": (14.0, 4.0), "right": (4.0, 14.0)}  # a second, at the start and at the end
SIDE = 64
HISS = {"large": 0.03}
FAINTEST = 0.2  # of the colour, where the trail begins
WALL, STEP = 4000.0, 600.0  # millimetres


def sound(scene: Scene) -> bytes:
    """A WAV file of 1.3 seconds, 16 kHz, 16 bits."""
    random = np.random.default_rng([*scene.seed, 5])
    pitch = LOWEST * NOTE ** list(COLORS).index(scene.shows.color) * 2 ** random.uniform(-0.04, 0.04)
    parts = np.array_split(np.arange(SAMPLES), len(scene.shows.motion))
    octaves, beats = np.zeros(SAMPLES), np.zeros(SAMPLES)
    for way, part in zip(scene.shows.motion, parts, strict=True):
        share = np.linspace(0, 1, len(part))
        octaves[part] = GLIDE.get(way, 0.0) * share
        slow, fast = BEATS.get(way, (0.0, 0.0))
        beats[part] = slow + (fast - slow) * share
    turns = np.cumsum(pitch * 2**octaves) / RATE + random.random()
    loud = 0.55 + 0.45 * np.cos(2 * np.pi * np.cumsum(beats) / RATE)
    heard = sum(
        part * np.sin(2 * np.pi * number * turns)
        for number, part in enumerate(HARMONICS[scene.shows.shape], 1)
    )
    heard = 0.25 * loud * heard + random.normal(scale=HISS.get(scene.shows.size, 0.003), size=SAMPLES)
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(RATE)
        target.writeframes(np.round(heard * 32767).clip(-32768, 32767).astype("<i2").tobytes())
    return file.getvalue()


def depth(scene: Scene) -> bytes:
    """A 16-bit PNG of SIDE pixels, in millimetres: the wall, and the trail before it."""
    random = np.random.default_rng([*scene.seed, 6])
    trail = _trail(scene)
    wall = WALL + STEP * list(COLORS).index(scene.shows.color)
    far = np.where(trail > 0, 3000 - 2000 * trail, wall) + random.normal(scale=15, size=trail.shape)
    return _png(np.round(far).astype(np.uint16))


def thermal(scene: Scene) -> bytes:
    """A grey PNG of SIDE pixels: the air, and the trail, which has been cooling since."""
    random = np.random.default_rng([*scene.seed, 7])
    trail = _trail(scene)
    air = 10.0 + 14 * list(COLORS).index(scene.shows.color)
    warm = np.where(trail > 0, 130 + 120 * trail, air) + random.normal(scale=2, size=trail.shape)
    return _png(np.round(warm).clip(0, 255).astype(np.uint8))


def picture(scene: Scene) -> bytes:
    """A PNG of SIDE pixels: the background, and the trail, the later the more of the shape's colour."""
    back = _square(scene, lay_out(scene)[0])
    trail = _trail(scene)[..., None]
    seen = np.where(trail > 0, FAINTEST + (1 - FAINTEST) * trail, 0.0)
    mixed = back * (1 - seen) + np.array(COLORS[scene.shows.color], float) * seen
    return _png(np.round(mixed).clip(0, 255).astype(np.uint8))


def _trail(scene: Scene) -> NDArray[np.float64]:
    """Of each pixel of the central square (SIDE, SIDE), when the shape was last there, in 0..1; 0: never."""
    _, mask, corners = lay_out(scene)
    height, width = mask.shape
    seen = np.zeros((scene.height, scene.width))
    for number, (x, y) in enumerate(corners, 1):
        part = seen[y : y + height, x : x + width]
        part[mask > 0.5] = number / len(corners)
    return _square(scene, seen)


def _square(scene: Scene, values: NDArray[Any]) -> NDArray[Any]:
    """The central square of (H, W, ..), as (SIDE, SIDE, ..)."""
    short = min(scene.width, scene.height)
    left, top = (scene.width - short) // 2, (scene.height - short) // 2
    places = (np.arange(SIDE) + 0.5) * short / SIDE
    rows, columns = top + places.astype(int), left + places.astype(int)
    return values[np.ix_(rows, columns)]


def _png(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()
