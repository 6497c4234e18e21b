"""The Llama tokenizer made from tokenizer.model, against SentencePiece itself."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from videollava.data.text.llama_tokenizer import load_llama_tokenizer
from videollava.errors import InputError


def test_reads_as_sentencepiece_does(shared: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    file = shared / "reference" / "llama2_tokenizer.model"
    tokenizer, model = load_llama_tokenizer(file), SentencePieceProcessor(str(file))
    chance = random.Random(1)
    words = [
        "\n",
        " ",
        "  ",
        "    ",
        "\t",
        "the",
        "dog",
        "123",
        "小さい",
        "🙂",
        "é",
        "ing",
        "://",
        "\r\n",
        "▁",
        "Ａ",
    ]
    for _ in range(1000):
        text = "x" + "".join(chance.choices(words, k=chance.randint(1, 14)))
        assert tokenizer(text, add_special_tokens=False).input_ids == model.encode(text)
    assert len(tokenizer) == 32000


def test_folder_with_settings_survives_saving(shared: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "vicuna"
    folder.mkdir()
    shutil.copy(shared / "reference" / "llama2_tokenizer.model", folder / "tokenizer.model")
    config = {
        "model_max_length": 2048,
        "pad_token": {"content": "<unk>", "lstrip": False},
        "padding_side": "right",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_llama_tokenizer(folder)
    assert (tokenizer.pad_token, tokenizer.model_max_length, tokenizer.padding_side) == (
        "<unk>",
        2048,
        "right",
    )
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("a\n  Answer").input_ids == tokenizer("a\n  Answer").input_ids == [1, 263, 13, 29871, 673]


def test_refuses_what_is_not_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.model: not found"):
        load_llama_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        load_llama_tokenizer(tmp_path)
