from __future__ import annotations

from typing import Any

import pytest
from made import llava

from videollava.data.records import Medium, Record, RecordError, Turn, from_llava, mark, to_llava
from videollava.errors import InputError


def test_reads_a_record() -> None:
    record = from_llava({**llava("a", image="x/1.png"), "kind": "color"}, "mine")
    assert record == Record(
        "a",
        "mine",
        (Turn("human", "<image>\nwhat is it?"), Turn("gpt", "it is a")),
        (Medium("image", "x/1.png"),),
        "color",
    )


def test_media_follow_the_order_of_their_marks() -> None:
    item = llava("a", image=["1.png", "2.png"], video="3.mp4")
    item["conversations"] = [
        {"from": "human", "value": "<image> and <video>?"},
        {"from": "gpt", "value": "yes"},
        {"from": "human", "value": "and <image>?"},
        {"from": "gpt", "value": "no"},
    ]
    assert [medium.path for medium in from_llava(item, "mine").media] == ["1.png", "3.mp4", "2.png"]


def test_text_only_and_a_greeting_are_legal() -> None:
    item = llava("a")
    assert from_llava(item, "mine").media == ()
    item["conversations"].insert(0, {"from": "gpt", "value": "hello"})
    assert len(from_llava(item, "mine").turns) == 3


@pytest.mark.parametrize(
    "item",
    [
        llava("a"),
        llava("b", image="1.png"),
        llava("c", image=["1.png", "2.png"], video="3.mp4", thermal="4.png"),
    ],
)
def test_goes_out_as_it_came_in(item: dict[str, Any]) -> None:
    assert to_llava(from_llava(item, "mine")) == item


def turns(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"id": "a", "conversations": [{"from": role, "value": text} for role, text in pairs]}


@pytest.mark.parametrize(
    ("item", "reason", "said"),
    [
        (["not", "a", "record"], "malformed record", "list"),
        ({"conversations": []}, "malformed record", "id"),
        ({"id": True}, "malformed record", "id"),
        ({"id": "a"}, "no conversation", "conversations"),
        ({"id": "a", "conversations": "text"}, "no conversation", "conversations"),
        ({"id": "a", "conversations": [1]}, "malformed turn", "conversations[0]"),
        (turns(("human", "q"), ("robot", "a")), "malformed turn", "conversations[1]"),
        (turns(("human", 3), ("gpt", "a")), "malformed turn", "conversations[0]"),
        (turns(("human", "q"), ("gpt", " \n")), "empty answer", "conversations[1]"),
        (turns(("human", "q")), "turns out of order", "human"),
        (turns(("gpt", "hello")), "turns out of order", "gpt"),
        (turns(("human", "q"), ("human", "q"), ("gpt", "a")), "turns out of order", "human, human, gpt"),
        (turns(("human", "q"), ("gpt", "<image>")), "mark in an answer", "conversations[1]"),
        (turns(("human", "q"), ("gpt", "\ud800")), "invalid text", "UTF-8"),
        (turns(("human", "<image>?"), ("gpt", "a")), "marks and media differ", "image"),
        ({**llava("a", image="1.png"), "video": "2.mp4"}, "marks and media differ", "video"),
        ({**llava("a"), "image": 7}, "malformed record", "image"),
        ({**llava("a"), "kind": 7}, "malformed record", "kind"),
        (llava("a", image="../1.png"), "unsafe path", "'../1.png'"),
        (llava("a", image="/etc/passwd"), "unsafe path", "'/etc/passwd'"),
        (llava("a", image="c:\\1.png"), "unsafe path", "image"),
        (llava("a", image=""), "unsafe path", "image"),
    ],
)
def test_says_what_is_wrong_and_where(item: Any, reason: str, said: str) -> None:
    with pytest.raises(RecordError, match=r"^file.json: entry 3") as caught:
        from_llava(item, "mine", "file.json: entry 3")
    assert caught.value.reason == reason
    assert said in str(caught.value)
    assert isinstance(caught.value, InputError)


def test_mark() -> None:
    assert mark("video") == "<video>"
