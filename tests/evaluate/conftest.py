"""A micro model with random weights, and prepared data of real pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_files import SHAPE

TEXTS = (
    "what color is the shape?",
    "is there a red circle? yes, no",
    "which way does it move? up down left right",
)


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(model, tokenizer): answers differ between questions and media, and some end early."""
    from transformers import AutoTokenizer

    from videollava.data.text.vocabulary import train_tokenizer
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

    model, tokenizer = micro
    return checkpoint.save(model, tokenizer, tmp_path_factory.mktemp("model") / "videollava")


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Path]:
    """prepare(media, {split: rows}): data/index in a fresh workspace; rows are (id, turns, media numbers)."""
    from videollava.data.archives.listing import TarWriter
    from videollava.data.prepare.index import write_shards
    from videollava.data.prepare.tables import split_writer, write_media

    def make(
        contents: Sequence[tuple[str, bytes]], splits: dict[str, Sequence[tuple[str, Any, Any]]]
    ) -> Path:
        folder = tmp_path / "work/data/index"
        folder.mkdir(parents=True)
        media = []
        shard = tmp_path / "work/data/shards/made/made-00000.tar"
        shard.parent.mkdir(parents=True)
        with TarWriter(shard) as writer:
            for number, (kind, data) in enumerate(contents):
                place = {"shard": 0, "offset": writer.add(str(number), data), "size": len(data)}
                about = {"media_id": number, "kind": kind, "sha256": sha256(data).hexdigest()}
                media.append({**place, **about, "width": 20, "height": 20, "frames": 1})
        write_media(folder, media)
        write_shards(folder, [("made", shard)])
        for name, rows in splits.items():
            split = split_writer(folder, name)
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
