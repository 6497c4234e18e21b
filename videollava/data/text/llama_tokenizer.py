"""Llama's SentencePiece tokenizer (`tokenizer.model`), with its pieces merged in the order of their scores.

transformers 5 merges in the order of the vocabulary instead, and so reads runs of spaces ("\\n  Answer")
unlike the original; published Video-LLaVA checkpoints hold a `tokenizer.model` and nothing else to go by.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from videollava.errors import InputError

__all__ = ["load_llama_tokenizer"]

# Settings of tokenizer_config.json that hold for the tokenizer built here.
_SETTINGS = (
    "model_max_length",
    "padding_side",
    "pad_token",
    "bos_token",
    "eos_token",
    "unk_token",
    "chat_template",
)


def load_llama_tokenizer(source: Path | str) -> Any:
    """A fast tokenizer equal to the original's `LlamaTokenizer(use_fast=False, legacy=True)`.

    Args:
        source: a `tokenizer.model`, or a folder with one (and perhaps a tokenizer_config.json).

    `save_pretrained` writes a tokenizer.json that transformers then reads right.

    Raises:
        InputError: no such file, or not a SentencePiece BPE model.
    """
    from sentencepiece import SentencePieceProcessor
    from transformers import LlamaTokenizer

    file = Path(source) / "tokenizer.model" if Path(source).is_dir() else Path(source)
    if not file.is_file():
        raise InputError(f"{file}: not found; a Llama tokenizer is one file, tokenizer.model")
    model = SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(file.read_bytes())
    except RuntimeError as error:
        raise InputError(f"{file}: not a SentencePiece model: copy it again from the checkpoint") from error
    pieces = [model.IdToPiece(index) for index in range(model.GetPieceSize())]
    scores = [float(model.GetScore(index)) for index in range(len(pieces))]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    settings = _settings(file.parent / "tokenizer_config.json")
    return LlamaTokenizer(
        vocab=vocab, merges=_merges(vocab, scores), legacy=True, add_bos_token=True, **settings
    )


def _merges(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, the best-scored first."""
    found: list[tuple[float, int, int, str, str]] = []
    for piece, index in vocab.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                found.append((-scores[index], -len(left), -len(right), left, right))
    found.sort(key=lambda entry: entry[:3])
    return [(left, right) for *_, left, right in found]


def _settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    raw = json.loads(file.read_text(encoding="utf-8"))
    settings = {name: raw[name] for name in _SETTINGS if raw.get(name) is not None}
    # Older files write a token as {"content": "</s>", "lstrip": false, ...}.
    return {name: value["content"] if isinstance(value, dict) else value for name, value in settings.items()}
