"""A micro model with random weights, and workspaces with real pictures, clips and benchmark files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from videollava.params import Encoder, Language, Model, Params, parse_params

SHAPE = Model(
    image_size=16,
    patch_size=8,
    frames=4,
    vision=Encoder(width=32, layers=2, heads=2, mlp=48),
    language=Language(width=48, layers=2, heads=4, mlp=64, positions=1024),
)
TEXTS = (
    "what color is the shape?",
    "is there a red circle? yes, no",
    "which way does it move? up down left right",
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
    choices = {"precision": "fp32", "workers": 0, "max_new_tokens": 6, "batch_tokens": 600, **evaluate}
    shape = {
        "image_size": 16,
        "patch_size": 8,
        "frames": 4,
        "vision": {"width": 32, "layers": 2, "heads": 2, "mlp": 48},
        "language": {"width": 48, "layers": 2, "heads": 4, "mlp": 64, "positions": 1024},
    }
    return parse_params({"model": shape, "evaluate": choices})


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(model, tokenizer): answers differ between questions and media, and some end early."""
    from transformers import AutoTokenizer

    from videollava.data.vocabulary import train_tokenizer
    from videollava.model.config import language_config, model_config
    from videollava.model.video_llava import ATTENTION, VideoLlavaForConditionalGeneration

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 300, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(7)
    text = language_config(SHAPE.language, len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config = model_config(SHAPE, text)
    model = VideoLlavaForConditionalGeneration._from_config(config, attn_implementation=ATTENTION)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
        model.lm_head.weight[2] *= 2
    return model.eval(), tokenizer


@pytest.fixture(scope="session")
def model_folder(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro model, saved."""
    from videollava.model import checkpoint

    return checkpoint.save(*micro, tmp_path_factory.mktemp("model") / "videollava")


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Path]:
    """prepare(media, {split: rows}): data/prepared in a fresh workspace; rows are (id, turns, media numbers)."""
    from videollava.data.archives import TarWriter
    from videollava.data.shards import SplitWriter, write_media

    def make(
        contents: Sequence[tuple[str, bytes]], splits: dict[str, Sequence[tuple[str, Any, Any]]]
    ) -> Path:
        folder = tmp_path / "work/data/prepared"
        folder.mkdir(parents=True)
        media = []
        with TarWriter(folder / "media-00000.tar") as writer:
            for number, (kind, data) in enumerate(contents):
                place = {"shard": 0, "offset": writer.add(str(number), data), "size": len(data)}
                about = {"media_id": number, "kind": kind, "sha256": sha256(data).hexdigest()}
                media.append({**place, **about, "width": 20, "height": 20, "frames": 1})
        write_media(folder, media)
        for name, rows in splits.items():
            split = SplitWriter(folder, name)
            for key, turns, numbers in rows:
                row = {
                    "id": key,
                    "source": "made",
                    "kind": ("color", "shape")[len(key) % 2],
                    "media": numbers,
                }
                split.add(row | {"conversations": json.dumps(turns)})
            split.close()
        return tmp_path / "work"

    return make
