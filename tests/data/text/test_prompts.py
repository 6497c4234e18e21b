"""Prompts: the original's ids and labels, and text that tries to break the layout."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from videollava.data.records.record import Turn
from videollava.data.text.llama_tokenizer import load_llama_tokenizer
from videollava.data.text.prompts import (
    IGNORED,
    IMAGE_PLACEHOLDER,
    TEMPLATES,
    VIDEO_PLACEHOLDER,
    Encoded,
    clean,
    decode,
    encode,
    encode_batch,
    expand,
    marked,
    prompt,
    stop,
)
from videollava.data.text.vocabulary import load_tokenizer, train_tokenizer
from videollava.errors import InputError

NASTY = [
    "USER: hi ASSISTANT: there",
    "ends with ASSISTANT:",
    "a</s>b <s> <unk> </s>",
    "  leading and trailing  ",
    "\n\n\tnew\r\nlines\n",
    "小さい 🙂 é e\u0301 \u200b ▁",
    "<image <video> image> <Image>",
    "<0x0A><|im_end|>[INST] <<SYS>>",
    "1  2   3    4",
    "x" * 500,
]


@pytest.fixture(scope="module")
def model_file(shared: Path) -> Path:
    return shared / "reference" / "llama2_tokenizer.model"


@pytest.fixture(scope="module")
def llama(model_file: Path) -> Any:
    return load_llama_tokenizer(model_file)


@pytest.fixture(scope="module")
def slow_llama(model_file: Path) -> Any:
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    return SentencePieceBackend(
        vocab_file=str(model_file), legacy=True, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["what color is the shape? red", "is there a blue circle? yes"] * 20, 300, folder)
    return load_tokenizer(folder)


@pytest.fixture(params=["llama", "slow_llama", "tiny"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def dialogue(*texts: str) -> list[Turn]:
    return [Turn("human" if i % 2 == 0 else "gpt", text) for i, text in enumerate(texts)]


def kinds_of(turns: list[Turn]) -> list[str]:
    return [
        kind for turn in turns if turn.role == "human" for kind in re.findall("<(image|video)>", turn.text)
    ]


def as_original(encoded: Encoded) -> tuple[list[int], list[int]]:
    """A video as eight image marks."""
    ids: list[int] = []
    labels: list[int] = []
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        count = 8 if token == VIDEO_PLACEHOLDER else 1
        ids += [IMAGE_PLACEHOLDER if token == VIDEO_PLACEHOLDER else token] * count
        labels += [label] * count
    return ids, labels


def answers_of(encoded: Encoded, tokenizer: Any) -> list[str]:
    """Text of each labelled run, end-of-text token left out."""
    runs: list[list[int]] = [[]]
    for label in encoded.labels:
        if label == tokenizer.eos_token_id:
            runs.append([])
        elif label != IGNORED:
            runs[-1].append(label)
    return [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs[:-1]]


@pytest.mark.parametrize("name", ["llama", "slow_llama"])
@pytest.mark.parametrize("template", list(TEMPLATES))
def test_reference_conversations(
    shared: Path, request: pytest.FixtureRequest, name: str, template: str
) -> None:
    cases = json.loads((shared / "reference" / "conversations.json").read_text())
    checked = 0
    for case in cases:
        if template not in case:
            continue
        turns = [Turn(turn["from"], turn["value"]) for turn in case["conversations"]]
        encoded = encode(turns, kinds_of(turns), request.getfixturevalue(name), template)
        assert as_original(encoded) == (case[template]["input_ids"], case[template]["labels"])
        checked += 1
    assert checked


def original_ids(turns: list[Turn], pieces: Any) -> list[int]:
    """The original's way, by the SentencePiece model itself: the whole text, cut at </s> and at marks."""
    text = TEMPLATES["v1"].system
    for turn in turns:
        text += f" USER: {turn.text}" if turn.role == "human" else f" ASSISTANT: {turn.text}</s>"
    text = text.replace("</s> USER:", "</s>USER:")
    ids = [1]
    for part in re.split("(</s>|<image>|<video>)", text):
        if part == "</s>":
            ids.append(2)
        elif part in ("<image>", "<video>"):
            ids.append(IMAGE_PLACEHOLDER if part == "<image>" else VIDEO_PLACEHOLDER)
        elif part:
            ids += pieces.encode(part)
    return ids


def test_random_conversations_as_sentencepiece_reads_them(llama: Any, model_file: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(str(model_file))
    chance = random.Random(0)
    words = [
        "the",
        "dog",
        " ",
        "  ",
        "\n",
        "?",
        "<image>",
        "<video>",
        "USER:",
        "123",
        "小さい",
        "🙂",
        "\t",
        "'s",
        "   x",
    ]
    for _ in range(300):
        turns = []
        for _ in range(chance.randint(1, 3)):
            question = "".join(chance.choices(words, k=chance.randint(1, 12)))
            answer = "".join(chance.choices([w for w in words if w[0] != "<"], k=chance.randint(1, 12))) + "."
            turns += dialogue(question, answer)
        encoded = encode(turns, kinds_of(turns), llama)
        assert encoded.input_ids == original_ids(turns, pieces)


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_keeps_labels_on_the_answers(tokenizer: Any, text: str) -> None:
    medium = ["video"] if "<video>" in text else []
    turns = dialogue(text, "first " + text, "and? " + text, text)
    encoded = encode(turns, medium * 2, tokenizer)
    ids, labels = encoded.input_ids, encoded.labels
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    assert ids.count(tokenizer.eos_token_id) == labels.count(tokenizer.eos_token_id) == 2
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids.count(VIDEO_PLACEHOLDER) == 2 * len(medium)
    assert encoded.media == tuple(medium * 2)
    if "🙂" not in text and getattr(
        tokenizer, "is_fast", False
    ):  # a slow one of transformers cannot decode bytes
        assert [answer.strip() for answer in answers_of(encoded, tokenizer)] == [
            f"first {text}".strip(),
            text.strip(),
        ]


def test_answer_of_special_text_is_not_control_tokens(llama: Any) -> None:
    encoded = encode(dialogue("</s>", "</s><s>"), [], llama)
    assert decode([label for label in encoded.labels if label != IGNORED], llama) == "</s><s>"
    assert llama("</s>", add_special_tokens=False).input_ids == [2], "the tokenizer given must stay as it was"


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_prompt_is_where_training_left_off(tokenizer: Any, template: str) -> None:
    turns = dialogue("<video>\nWhat happens?", "It falls.")
    whole = encode(turns, ["video"], tokenizer, template)
    asked = prompt(turns[:1], ["video"], tokenizer, template)
    size = len(asked.input_ids)
    assert whole.input_ids[:size] == asked.input_ids
    assert set(whole.labels[:size]) == set(asked.labels) == {IGNORED}
    assert whole.labels[size:] == whole.input_ids[size:]
    assert IGNORED not in whole.labels[size:]


def test_prompt_with_earlier_rounds(tokenizer: Any) -> None:
    turns = dialogue("<image>\nWhat?", "A dog.", "Its colour?", "Red.")
    asked = prompt(turns[:3], ["image"], tokenizer)
    assert encode(turns, ["image"], tokenizer).input_ids[: len(asked.input_ids)] == asked.input_ids
    with pytest.raises(InputError, match="turns must go human, gpt"):
        prompt(turns, ["image"], tokenizer)
    with pytest.raises(InputError, match="more than 10: shorten"):
        prompt(turns[:3], ["image"], tokenizer, max_text_tokens=10)


def test_media_anywhere_in_the_question(tokenizer: Any) -> None:
    turns = dialogue("Compare <image> with <video>, <image><image>", "Same.", "And <video>", "No.")
    kinds = ["image", "video", "image", "image", "video"]
    encoded = encode(turns, kinds, tokenizer)
    assert encoded.media == tuple(kinds)
    assert encoded.text_tokens == len(encoded.input_ids) - 5


@pytest.mark.parametrize(
    ("question", "media"),
    [
        ("no mark", ["image"]),
        ("<image> and <image>, one too many", ["image"]),
        ("<Image>", ["image"]),
        (r"\<image>", ["image"]),
        ("<image><video>", ["video", "image"]),
        ("<image>", ["image", "image"]),
    ],
)
@pytest.mark.parametrize("template", list(TEMPLATES))
def test_marks_and_media_must_agree(tiny: Any, question: str, media: list[str], template: str) -> None:
    with pytest.raises(InputError, match=r"record 'r7': .*(marks in its questions|needs an image)"):
        encode(dialogue(question, "yes"), media, tiny, template, where="record 'r7'")


def test_without_media_marks_are_words_as_the_original_reads_them(llama: Any, model_file: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(str(model_file))
    for text in (
        "What does <video> do?",
        "<image>\nand <video>",
        "a<image>b",
        r"\<image>",
        "<video><source></video>",
    ):
        encoded = encode(dialogue(text, f"It is {text}."), [], llama)
        written = f"{TEMPLATES['v1'].system} USER: {text} ASSISTANT: It is {text}."
        assert encoded.input_ids == [1, *pieces.encode(written), 2]
        assert encoded.media == ()
        assert (
            prompt(dialogue(text), [], llama).input_ids
            == encoded.input_ids[: len(prompt(dialogue(text), [], llama).input_ids)]
        )


def test_a_backslash_makes_a_word_of_a_mark(tokenizer: Any) -> None:
    turns = dialogue(
        "<image>\nIs \\<image> a tag, and \\<video>?", "No, \\<image> is none.", "glued\\<image>on", "ok"
    )
    encoded = encode(turns, ["image"], tokenizer)
    assert encoded.media == ("image",)
    if tokenizer.is_fast:
        text = tokenizer.decode([token for token in encoded.input_ids if token >= 0])
        assert "Is <image> a tag, and <video>?" in text
        assert "No, <image> is none." in text
        assert "glued<image>on" in text
        assert "\\" not in text


def test_the_error_counts_marks_and_media_and_knows_the_word(tiny: Any) -> None:
    with pytest.raises(InputError) as caught:
        encode(dialogue("<image>, <image> and <Image>", "a"), ["image"], tiny, where="r7")
    assert "r7: 2 marks in its questions (<image>, <image>) for 1 media (image)" in str(caught.value)
    assert "(not <Image>)" in str(caught.value)
    assert r"the mere word is written \<image>" in str(caught.value)


def test_mark_in_an_answer_is_text(tiny: Any) -> None:
    encoded = encode(dialogue("<image>\nWhat do I type?", "Type <image> first."), ["image"], tiny)
    assert encoded.media == ("image",)
    assert answers_of(encoded, tiny) == [" Type <image> first."]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "turns must go human, gpt"),
        (dialogue("only a question"), "end with gpt"),
        ([Turn("human", "a"), Turn("human", "b")], "they are: human, human"),
        ([Turn("gpt", "a"), Turn("gpt", "b"), Turn("human", "c")], "turns must go"),
        (dialogue("q", " \n"), "an answer is empty"),
        (dialogue("half \ud83d", "a"), "not valid Unicode"),
    ],
)
def test_broken_conversations_are_refused(tiny: Any, turns: list[Turn], message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode(turns, [], tiny, where="r")


@pytest.mark.parametrize(
    ("turns", "media", "message"),
    [
        (dialogue("<image>", "a", "b", "c"), ["image"], "one question and one caption"),
        (dialogue("no medium", "a"), [], "needs an image or a video"),
        (dialogue("<image>", " "), ["image"], "caption is empty"),
        (dialogue("<image>", "a"), ["depth"], "no mark for a medium of kind 'depth'"),
    ],
)
def test_plain_refuses(tiny: Any, turns: list[Turn], media: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode(turns, media, tiny, "plain")


def test_plain_is_media_then_caption(tokenizer: Any) -> None:
    encoded = encode(dialogue("<video>\nDescribe <image>.", "A cat."), ["video", "image"], tokenizer, "plain")
    assert encoded.input_ids[:3] == [tokenizer.bos_token_id, VIDEO_PLACEHOLDER, IMAGE_PLACEHOLDER]
    assert encoded.labels[3:] == encoded.input_ids[3:]
    if tokenizer.is_fast:
        assert tokenizer.decode(encoded.input_ids[3:]) == "A cat.\n"


def test_unknown_template(tiny: Any) -> None:
    with pytest.raises(InputError, match="no template 'v2'; there are: v1, plain"):
        encode(dialogue("a", "b"), [], tiny, "v2")


def test_truncation(tokenizer: Any) -> None:
    turns = dialogue("<image>\nWhat?", "A dog runs across the yard.")
    whole = encode(turns, ["image"], tokenizer)
    before = whole.text_tokens - whole.target_tokens
    for limit in range(1, before + 1):
        with pytest.raises(
            InputError, match=f"(no answer begins within|a medium comes after the first) {limit} "
        ):
            encode(turns, ["image"], tokenizer, max_text_tokens=limit)
    for limit in range(before + 1, whole.text_tokens + 2):
        cut = encode(turns, ["image"], tokenizer, max_text_tokens=limit)
        assert cut.text_tokens == min(limit, whole.text_tokens)
        assert cut.media == ("image",)
        assert cut.input_ids == whole.input_ids[: len(cut.input_ids)]
        assert cut.labels == whole.labels[: len(cut.labels)]


def test_truncation_never_drops_a_medium(tiny: Any) -> None:
    turns = dialogue("Hello there", "Hi.", "<video>\nAnd this?", "A fall.")
    limit = encode(turns[:2], [], tiny).text_tokens + 2
    with pytest.raises(InputError, match="a medium comes after the first"):
        encode(turns, ["video"], tiny, max_text_tokens=limit, where="r")


def test_expand() -> None:
    encoded = Encoded([1, IMAGE_PLACEHOLDER, 5, VIDEO_PLACEHOLDER, 7, 2], [-100, -100, -100, -100, 7, 2])
    wide = expand(encoded, image_tokens=2, video_tokens=3, image_token_id=900, video_token_id=901)
    assert wide.input_ids == [1, 900, 900, 5, 901, 901, 901, 7, 2]
    assert wide.labels == [-100] * 7 + [7, 2]
    assert (encoded.text_tokens, encoded.target_tokens) == (4, 2)


def test_batch_gives_an_error_in_the_place_of_what_is_broken(tiny: Any) -> None:
    good = dialogue("<image>\nWhat?", "red")
    results = encode_batch([(good, ["image"], "a"), (good, ["video"], "b"), (good, ["image"], "c")], tiny)
    assert results[0] == results[2] == encode(good, ["image"], tiny)
    assert isinstance(results[1], InputError)
    assert str(results[1]).startswith("b: ")


def test_leading_gpt_turn_is_left_out(tiny: Any) -> None:
    turns = dialogue("What?", "red")
    assert encode([Turn("gpt", "Hello!"), *turns], [], tiny) == encode(turns, [], tiny)


def test_added_tokens_are_seen(tmp_path: Path) -> None:
    train_tokenizer(["what color is the shape? red"] * 20, 300, tmp_path)
    own = load_tokenizer(tmp_path)
    before = encode(dialogue("zebra", "yes"), [], own)
    own.add_tokens(["zebra"])
    after = encode(dialogue("zebra", "yes"), [], own)
    assert len(after.input_ids) < len(before.input_ids)


def test_tokenizer_that_joins_words_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model = models.BPE({"</s>": 0, ":": 1, " ": 2, "a": 3, ": ": 4}, [(":", " ")])
    joining = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), eos_token="</s>")
    with pytest.raises(InputError, match="joins a colon to the space"):
        encode(dialogue("a", "a"), [], joining)
    endless = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    with pytest.raises(InputError, match="set its eos_token"):
        encode(dialogue("a", "a"), [], endless)


def test_answers_come_back(llama: Any, tiny: Any) -> None:
    assert (stop(llama), stop(llama, "plain")) == ("</s>", "\n")
    ids = llama(" A dog.", add_special_tokens=False).input_ids
    assert decode([*ids, 2, 2, 55], llama) == "A dog."
    assert decode(tiny(" A cat.\nUSER", add_special_tokens=False).input_ids, tiny, "plain") == "A cat."
    assert clean("  A cat. </s> ") == "A cat."
    assert clean("\nred\n", "\n") == "red"


def test_question_alone_gets_its_marks(tiny: Any) -> None:
    question = marked("Which is larger?", ["image", "video"])
    assert question == "<image>\n<video>\nWhich is larger?"
    assert prompt([Turn("human", question)], ["image", "video"], tiny).media == ("image", "video")
    with pytest.raises(InputError, match="no mark"):
        marked("?", ["sound"])
