"""Marks in a question to a model: places of media where media are given, else words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from videollava.data.text.vocabulary import load_tokenizer, train_tokenizer
from videollava.errors import InputError
from videollava.evaluate.prompting import prompt_sample

IMAGE, VIDEO = 900, 901


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["what does the tag do? it plays"] * 20, 300, folder)
    return load_tokenizer(folder)


def ids(tokenizer: Any, question: str, images: int = 0, videos: int = 0) -> list[int]:
    text = SimpleNamespace(max_position_embeddings=4096)
    config = SimpleNamespace(
        image_tokens=2, video_tokens=lambda: 3, image_token_id=IMAGE, video_token_id=VIDEO, text_config=text
    )
    model, pixels = SimpleNamespace(config=config), torch.zeros(1)
    sample = prompt_sample(model, tokenizer, question, [pixels] * images, [pixels] * videos, "question 1")
    return list(sample.prompt_ids)


def test_without_media_a_mark_is_a_word(tokenizer: Any) -> None:
    for question in ("what does <video> do?", "<image>\nwhat is that tag?"):
        asked = ids(tokenizer, question)
        assert not {IMAGE, VIDEO} & set(asked)
        assert question in tokenizer.decode(asked)


def test_with_media_a_mark_is_a_place_and_a_word_has_a_backslash(tokenizer: Any) -> None:
    placed = ids(tokenizer, "<video> and <image>?", images=1, videos=1)
    assert [token for token in placed if token >= IMAGE] == [VIDEO] * 3 + [IMAGE] * 2
    first = ids(tokenizer, r"what does \<video> do?", images=1)
    assert [token for token in first if token >= IMAGE] == [IMAGE] * 2
    assert "what does <video> do?" in tokenizer.decode([token for token in first if token < IMAGE])


@pytest.mark.parametrize("question", ["<video>?", "<image> and <image>?", "<image> or <video>?"])
def test_marks_that_do_not_fit_the_media_are_counted(tokenizer: Any, question: str) -> None:
    with pytest.raises(InputError, match=r"question 1: \d marks in its questions .* for 1 media \(image\)"):
        ids(tokenizer, question, images=1)
