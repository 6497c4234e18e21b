"""The text that the tiny language model learns from."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoTokenizer

from videollava.data.prepare.tables import load_split
from videollava.data.records.record import Turn
from videollava.data.text.prompts import IGNORED, TEMPLATES
from videollava.train.bases import QUESTIONS, parts_of, texts_of


def talk(questions: int, opening: str = "<image>\n") -> list[Turn]:
    turns = []
    for number in range(questions):
        turns += [Turn("human", f"{opening if not number else ''}q{number}"), Turn("gpt", f"a{number}")]
    return turns


def test_a_long_conversation_is_cut_and_each_part_tells_what_is_seen() -> None:
    parts = list(parts_of(talk(2 * QUESTIONS + 1), ["a red circle"]))
    assert [len(part) for part in parts] == [2 * QUESTIONS, 2 * QUESTIONS, 2]
    assert [part[0].text for part in parts] == [f"a red circle\nq{n}" for n in (0, QUESTIONS, 2 * QUESTIONS)]
    assert [turn.text for part in parts for turn in part if turn.role == "gpt"] == [
        f"a{n}" for n in range(2 * QUESTIONS + 1)
    ]


def test_captions_stand_where_the_marks_were() -> None:
    turns = talk(QUESTIONS + 1, "compare <image> with <video>: ")
    turns[-2] = Turn("human", "and <image>?")
    turns[-1] = Turn("gpt", "type <image>")
    first, second = parts_of([Turn("gpt", "hello"), *turns], ["one", "two", "three"])
    assert first[0].text == "compare one with two: q0"
    assert second == [Turn("human", "one two\nand three?"), Turn("gpt", "type <image>")]


def test_a_medium_without_a_caption_leaves_the_question() -> None:
    first, second = parts_of(talk(QUESTIONS + 1), [""])
    assert (first[0].text, second[0].text) == ("q0", f"q{QUESTIONS}")


def test_texts_hold_every_answer_and_no_system_prompt(made: Path) -> None:
    prepared = made / "data/index"
    tokenizer = AutoTokenizer.from_pretrained(prepared / "tokenizer")
    answers = [
        turn[1]
        for split in ("pretrain", "finetune")
        for row in load_split(prepared, split)["conversations"].to_pylist()
        for turn in json.loads(row)
        if turn[0] == "gpt"
    ]
    texts = texts_of(prepared, tokenizer)
    learned = [tokenizer.decode([t for t in text.labels if t != IGNORED]) for text in texts]
    found = [part.strip() for text in learned for part in text.replace("</s>", "\n").strip().split("\n")]
    assert found == answers
    for text in texts:
        assert (
            text.input_ids.count(tokenizer.bos_token_id)
            == 1
            == text.input_ids.index(tokenizer.bos_token_id) + 1
        )
        assert TEMPLATES["v1"].system[:20] not in tokenizer.decode(text.input_ids)
        assert len(text.input_ids) == len(text.labels)
