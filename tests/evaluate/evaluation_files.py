"""Small real pictures, benchmark files and parameters for the tests of an evaluation."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from videollava.params import Encoder, Language, Model, Params, parse_params

SHAPE = Model(
    image_size=16,
    patch_size=8,
    frames=4,
    vision=Encoder(width=32, layers=2, heads=2, mlp=48),
    language=Language(width=48, layers=2, heads=4, mlp=64, positions=1024),
)


def picture(seed: int, side: int = 20) -> bytes:
    """A PNG of noise in one colour's shades."""
    drawn = np.random.default_rng(seed)
    shades = drawn.integers(0, 255, (side, side + 4, 3)) * drawn.random(3)
    file = io.BytesIO()
    Image.fromarray(shades.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def params(**evaluate: Any) -> Params:
    """The parameters of an evaluation of the micro model, exact and in this process."""
    choices = {"precision": "fp32", "max_new_tokens": 6, **evaluate}
    return parse_params({"evaluate": choices}).replace(model=SHAPE)
