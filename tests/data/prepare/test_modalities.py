"""Media of all five kinds: records, inspection, shards, quarantine, and the pairs of `align`."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import archive_source, lines, llava, mp4, params, png, prepare, tar
from PIL import Image

from videollava.data.acquire.fetch import run as fetch
from videollava.data.archives.listing import list_members
from videollava.data.load.batches import Layout
from videollava.data.load.pairs import Pairs, plan_pairs, rows_of
from videollava.data.load.shards import Shards
from videollava.data.modalities import MODALITIES
from videollava.data.prepare.tables import load_split
from videollava.data.text.vocabulary import load_tokenizer
from videollava.embedding.encoders import load_encoders
from videollava.model.checkpoint import save
from videollava.model.encoders import LanguageBind, pair_config


def wav(seed: int = 0, samples: int = 8000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(np.random.default_rng(seed).integers(-(2**15), 2**15, samples, np.int16).tobytes())
    return file.getvalue()


def depth(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 9000, (12, 20), np.uint16)).save(file, "PNG")
    return file.getvalue()


def npy(seed: int = 0) -> bytes:
    file = io.BytesIO()
    np.save(file, np.random.default_rng(seed).uniform(0, 9, (12, 20)).astype(np.float32))
    return file.getvalue()


MEDIA = {
    "0.png": png(0),
    "0.mp4": mp4(0),
    "d/0.png": depth(0),
    "d/1.npy": npy(1),
    "t/0.png": png(7),
    "0.wav": wav(0),
    "short.wav": wav(1, 100),
    "t/1.png": png(8),
}
KINDS = ["image", "video", "depth", "depth", "thermal", "audio", "thermal"]
RECORDS = [
    {"id": "a", "image": "0.png", "caption": "an image"},
    {"id": "b", "media": "0.mp4", "caption": "a clip"},
    {"id": "c", "media": "d/0.png", "modality": "depth", "caption": "a depth map"},
    {"id": "d", "media": "d/1.npy", "caption": "a depth map in metres"},
    {"id": "e", "thermal": "t/0.png", "caption": "a warm thing"},
    {"id": "f", "media": "0.wav", "caption": "noise"},
    {"id": "g", "audio": "short.wav", "caption": "hardly a sound"},
    {
        "id": "h",
        "messages": [{"role": "user", "content": "<thermal>hm?"}, {"role": "assistant", "content": "cold"}],
        "thermals": ["t/1.png"],
    },
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    workspace = tmp_path_factory.mktemp("five")
    archive = tar(workspace / "from/media.tar", MEDIA)
    plain = lines(workspace / "from/plain.jsonl", RECORDS[:-1])
    chat = lines(workspace / "from/chat.jsonl", RECORDS[-1:])
    spoken = lines(
        workspace / "from/spoken.jsonl", [llava("s", audio="0.wav"), *(llava(f"i{n}") for n in range(3))]
    )
    chosen = params(
        archive_source(archive, plain, name="plain", use="align").model_copy(update={"format": "jsonl"}),
        archive_source(archive, chat, name="chat", use="align").model_copy(update={"format": "messages"}),
        archive_source(archive, spoken, name="spoken"),
        max_quarantined=0.5,
    )
    model = chosen.model.model_copy(update={"audio_bins": 16, "audio_frames": 32})
    chosen = chosen.model_copy(update={"model": model})
    fetch(chosen, workspace)
    prepare(chosen, workspace)
    return workspace, chosen


def test_shards_hold_all_kinds(prepared: tuple[Path, Any]) -> None:
    workspace, _ = prepared
    shards = Shards(workspace / "data/index", verify=True)
    assert [shards.kind(number) for number in range(len(shards))] == KINDS
    names = [n for n in MEDIA if n != "short.wav"]
    assert [shards.read(number) for number in range(len(shards))] == [MEDIA[name] for name in names]
    members = [one.name for one in list_members(workspace / "data/shards/plain/plain-00000.tar")]
    assert [name for name in members if not name.endswith(".json")] == [
        *("00000000.png", "00000001.mp4", "00000002.depth.png", "00000003.npy"),
        *("00000004.thermal.png", "00000005.wav"),
    ]


def test_what_cannot_be_used_is_told(prepared: tuple[Path, Any]) -> None:
    told = [
        json.loads(line) for line in (prepared[0] / "data/index/quarantine.jsonl").read_text().splitlines()
    ]
    assert {entry["record"]: entry["reason"] for entry in told} == {"g": "broken audio", "s": "aligned only"}
    assert "less sound than a window of 25 ms" in str(told)
    assert "audio is aligned with captions alone" in str(told)


def test_pairs_of_any_kind(prepared: tuple[Path, Any]) -> None:
    workspace, chosen = prepared
    folder = workspace / "data/index"
    rows = load_split(folder, "align").to_pylist()
    assert [row["id"] for row in rows] == list("abcdefh")
    assert [(row["images"], row["videos"]) for row in rows] == [(1, 0), (0, 1), *[(0, 0)] * 5]
    assert [row["tokens"] - row["text_tokens"] for row in rows] == [4, 15, *[0] * 5]
    found = {kind: rows_of(folder, kind) for kind in dict.fromkeys(KINDS)}
    assert found == {"image": [0], "video": [1], "depth": [2, 3], "thermal": [4, 6], "audio": [5]}
    tokenizer = load_tokenizer(folder / "tokenizer")
    tokenizer.pad_token = tokenizer.eos_token
    layout = Layout.of(chosen.model, len(tokenizer), template="plain")
    shapes = {
        "depth": ((2, 3, 16, 16), torch.float32, 4),
        "thermal": ((2, 3, 16, 16), torch.int16, 4),
        "audio": ((1, 3, 16, 32), torch.float32, 8),
    }
    for kind, (shape, dtype, patches) in shapes.items():
        texts = {row["conversations"]: None for row in rows}
        texts = {json.loads(said)[-1][1]: torch.zeros(2) for said in texts}
        plan = plan_pairs(shape[0], shape[0], 1, seed=0, epoch=0)
        given = Pairs(folder, kind, tokenizer, layout, plan, texts=texts, patch_dropout=0.5)[0]  # type: ignore[arg-type]
        assert (given.pixels.shape, given.pixels.dtype, given.dropped) == (shape, dtype, [])
        assert given.kept is not None
        assert given.kept.shape == (shape[0], patches // 2)
        assert int(given.kept.max()) < patches


def test_align_and_embed_see_the_same_pixels(prepared: tuple[Path, Any], tmp_path: Path) -> None:
    """Of files that are wider or higher than a square, on encoders of the recipe's sizes: what is learned from is what
    is asked with.
    """
    workspace, chosen = prepared
    folder = workspace / "data/index"
    tokenizer = load_tokenizer(folder / "tokenizer")
    tokenizer.pad_token = tokenizer.eos_token
    layout = Layout.of(chosen.model, len(tokenizer), template="plain", image_aspect="crop")
    first = LanguageBind(pair_config(chosen.model, "image", len(tokenizer)))
    for kind in MODALITIES:
        pair = LanguageBind(pair_config(chosen.model, kind, len(tokenizer)))
        pair.text_model.load_state_dict(first.text_model.state_dict())
        pair.text_projection.load_state_dict(first.text_projection.state_dict())
        save(pair, tokenizer, tmp_path / "encoders" / kind)
    encoders = load_encoders(tmp_path / "encoders", device="cpu")
    captions = [json.loads(row["conversations"])[-1][1] for row in load_split(folder, "align").to_pylist()]
    texts = {caption: torch.zeros(2) for caption in captions}
    shards = Shards(folder)
    for kind in MODALITIES:
        plan = plan_pairs(len(rows_of(folder, kind)), 1, 1, seed=0, epoch=0)
        pairs = Pairs(folder, kind, tokenizer, layout, plan, texts=texts)
        for place in range(len(pairs)):
            (number,) = pairs.records["media"][pairs.rows[plan.pack(place)[0]]].as_py()
            file = tmp_path / f"{kind}-{number}"
            file.write_bytes(shards.read(number))
            learned, asked = pairs[place].pixels[0], encoders.read(file, kind)
            assert learned.dtype == asked.dtype
            assert torch.equal(learned, asked), (kind, number)
