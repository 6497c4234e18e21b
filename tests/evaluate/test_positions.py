"""Prompts and answers within the positions that a model has: refused, cut and counted with both figures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from evaluation_files import picture, write_files

from videollava.errors import InputError
from videollava.evaluate.answers import AnswerLog
from videollava.evaluate.batches import Sample
from videollava.evaluate.generate import generate, stream
from videollava.evaluate.media import Reader, encode_windows
from videollava.evaluate.positions import Refused, TooLong, check_length
from videollava.evaluate.predict import Settings, predict
from videollava.evaluate.prompting import prompt_sample
from videollava.evaluate.questions import Item
from videollava.model.positions import positions_of
from videollava.serve.assistant import Assistant

POSITIONS = 1024  # of the micro model
LONG = "red " * 10_000


def text_config(stated: int | None, rope: dict[str, Any] | None) -> Any:
    return SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=stated, rope_parameters=rope))


@pytest.mark.parametrize(
    ("stated", "rope", "positions"),
    [
        (4096, {"rope_type": "default", "rope_theta": 1e4}, 4096),
        (4096, None, 4096),
        (4096, {"rope_type": "linear", "factor": 4.0}, 16384),  # Vicuna-16k
        (4096, {"rope_type": "dynamic", "factor": 2.0}, 8192),
        (32768, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        (131072, {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 131072),
        (None, None, 0),
    ],
)
def test_positions_of_scaled_models(stated: int | None, rope: dict[str, Any] | None, positions: int) -> None:
    assert positions_of(text_config(stated, rope)) == positions


def test_both_figures_are_told() -> None:
    config = text_config(256, None)
    with pytest.raises(
        TooLong, match=r"sample 3: the prompt has 10,000 tokens \(257 of them .*\); the model has 256"
    ):
        check_length(10_000, config, 257, "sample 3")
    with pytest.raises(TooLong):
        check_length(256, config)  # no room for an answer
    check_length(255, config)
    check_length(10_000, text_config(None, None))


def test_a_prompt_that_is_too_long_is_refused_and_takes_no_other_down(micro: Any) -> None:
    assistant = Assistant(*micro)
    alone = [assistant.answer(text, max_new_tokens=4) for text in ("what color?", "is it red?")]
    with pytest.raises(Refused, match=r"the prompt has \d{2},\d{3} tokens; the model has 1,024 positions"):
        assistant.answer(LONG)
    batch = [{"question": "what color?"}, {"question": LONG}, {"question": "is it red?"}]
    with pytest.raises(Refused, match=r"sample 1: the prompt has .* the other 2 answers") as refused:
        assistant.answer_batch(batch, max_new_tokens=4)
    assert refused.value.answers == [alone[0], None, alone[1]]
    assert list(refused.value.refusals) == [1]


def test_visual_tokens_count(micro: Any) -> None:
    model, tokenizer = micro
    videos = [torch.zeros(4, 3, 16, 16)] * 60  # of 20 tokens each
    with pytest.raises(TooLong, match=r"\(1,200 of them of its media\)"):
        prompt_sample(model, tokenizer, "what is it?", [], videos)
    with pytest.raises(TooLong, match="sample 1: "):
        generate(model, tokenizer, [Sample([1, 5]), Sample([5] * POSITIONS)])


@pytest.mark.parametrize("question", ["", "  \n", "<image>\n"])
def test_an_empty_question_is_refused(micro: Any, question: str) -> None:
    images = [torch.zeros(3, 16, 16)] if "<image>" in question else []
    model, tokenizer = micro
    with pytest.raises(InputError, match="sample 0: the question is empty"):
        prompt_sample(model, tokenizer, question, images, [], "sample 0")


def test_an_answer_ends_with_the_positions_and_says_so(micro: Any) -> None:
    model, tokenizer = micro
    kept = model.lm_head.weight[2].clone()
    with torch.no_grad():
        model.lm_head.weight[2] = 0  # no end mark
    try:
        short, near = Sample([1, 50, 60]), Sample([1, *range(50, 60)] * 93)  # 1,023 tokens
        whole = generate(model, tokenizer, [short], 9)
        with pytest.warns(UserWarning, match="sample 1: its answer stops after 1 tokens, .* 1,024 positions"):
            both = generate(model, tokenizer, [short, near], 9)
        assert both[0] == whole[0]
        with pytest.warns(UserWarning, match="stops after 1 tokens"):
            assert "".join(stream(model, tokenizer, near, 9)) == both[1]
        fits = generate(model, tokenizer, [Sample([1, *range(50, 60)] * 92)], 9)  # 1,012 tokens: no warning
        assert fits
    finally:
        with torch.no_grad():
            model.lm_head.weight[2] = kept


def test_in_an_evaluation_it_counts_as_unanswered_and_the_rest_goes_on(micro: Any, tmp_path: Path) -> None:
    model, tokenizer = micro
    write_files(tmp_path, {"p.png": picture(1)})
    plain = [Item(f"q{n}", "", f"<image>\nwhat {n}?", "", ("p.png",)) for n in range(4)]
    odd = [
        Item("long", "", f"<image>\n{LONG}", "", ("p.png",)),
        Item("empty", "", "<image>\n", "", ("p.png",)),
    ]
    reader = Reader.of(model.config, tmp_path, "pad")
    encode = partial(encode_windows, model, reader, 0)
    logs = [AnswerLog(tmp_path / name) for name in ("plain", "odd")]
    predict(model, tokenizer, plain, encode, logs[0], Settings(4))
    predict(model, tokenizer, [*plain[:2], *odd, *plain[2:]], encode, logs[1], Settings(4))
    given = logs[1].read()
    assert given.texts == logs[0].read().texts
    assert given.unasked == {"long", "empty"}
    assert given.lacking == {}
    assert "question 'long': the prompt has" in given.problems["long"]
    assert "1,024 positions" in given.problems["long"]
    before = (tmp_path / "odd/0.jsonl").read_bytes()
    predict(model, tokenizer, [*plain[:2], *odd, *plain[2:]], encode, logs[1], Settings(4))
    assert (tmp_path / "odd/0.jsonl").read_bytes() == before
