from __future__ import annotations

from typing import Any

import pytest
from made import llava

from videollava.data.names import renaming
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
        (
            {**turns(("human", "<image>"), ("gpt", "<image>")), "image": "1.png"},
            "mark in an answer",
            r"write \<image> for the mere word",
        ),
        (turns(("human", "q"), ("gpt", "\ud800")), "invalid text", "UTF-8"),
        (
            {**turns(("human", "<image>?"), ("gpt", "a")), "image": ""},
            "marks and media differ",
            "0 paths but 1",
        ),
        (
            {**turns(("human", "<image>?"), ("gpt", "a")), "images": [], "image_path": "None"},
            "marks and media differ",
            "0 paths but 1",
        ),
        ({**llava("a", image="1.png"), "images": ["2.png"]}, "malformed record", "fields image and images"),
        (
            {**turns(("human", "<image> <image>"), ("gpt", "a")), "image": "1.png"},
            "marks and media differ",
            "1 paths but 2",
        ),
        (
            {**turns(("human", "<Image>"), ("gpt", "a")), "image": "1.png"},
            "marks and media differ",
            "(<Image> is none)",
        ),
        (
            {**turns(("human", "<image>"), ("gpt", "a")), "img": "x/1.JPG"},
            "unknown medium field",
            "rename it to image",
        ),
        (
            turns(("system", "be kind"), ("human", "q"), ("gpt", "a")),
            "malformed turn",
            "system prompt of their own",
        ),
        (turns(("human", [{"type": "text"}]), ("gpt", "a")), "malformed turn", "a list of 1 parts"),
        ({**llava("a", image="1.png"), "video": "2.mp4"}, "marks and media differ", "video"),
        ({**llava("a"), "image": 7}, "malformed record", "image"),
        ({**llava("a"), "kind": 7}, "malformed record", "kind"),
        (llava("a", image="../1.png"), "unsafe path", "'../1.png'"),
        (llava("a", image="/etc/passwd"), "unsafe path", "'/etc/passwd'"),
        (llava("a", image="c:\\1.png"), "unsafe path", "image"),
        (llava("a", image="https:\\\\..\\..\\..\\x"), "unsafe path", "image"),
    ],
)
def test_says_what_is_wrong_and_where(item: Any, reason: str, said: str) -> None:
    with pytest.raises(RecordError, match=r"^file.json: entry 3") as caught:
        from_llava(item, "mine", "file.json: entry 3")
    assert caught.value.reason == reason
    assert said in str(caught.value)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    "nothing", ["", " ", None, [], [None], [""], "None", "null", "NaN", float("nan"), {"path": None}]
)
def test_an_empty_medium_beside_text_is_none(nothing: Any) -> None:
    assert from_llava({**llava("a"), "image": nothing, "video": nothing}, "mine").media == ()
    assert len(from_llava({**llava("a", image="1.png"), "video": nothing}, "mine").media) == 1


@pytest.mark.parametrize(
    "text", ["What does <video> do?", "<image>\nwhat?", "<video>\n <source>\n</video>", "glued<image>on"]
)
def test_without_media_a_mark_is_a_word(text: str) -> None:
    record = from_llava(turns(("human", text), ("gpt", f"write {text}")), "mine")
    assert record.media == ()
    assert record.turns == (Turn("human", text), Turn("gpt", f"write {text}"))


def test_beside_media_a_word_is_escaped() -> None:
    item = turns(("human", "<image>\nIs \\<image> a tag? And \\<video>?"), ("gpt", "\\<image> is none"))
    assert [medium.path for medium in from_llava({**item, "image": "1.png"}, "mine").media] == ["1.png"]


def test_what_other_tools_write() -> None:
    plain = from_llava(llava("7", image="a/1.png", video="b/2.mp4"), "mine")
    talk = llava("7", image="a/1.png", video="b/2.mp4")["conversations"]
    roles = {"human": "user", "gpt": "assistant"}
    other = {
        "id": 7.0,
        "images": ["./a//1.png"],
        "video_path": "c\\..\\b\\2.mp4",
        "messages": [{"role": roles[turn["from"]], "content": turn["value"]} for turn in talk],
    }
    assert from_llava(other, "mine") == plain
    talk = [{"from": turn["from"].upper(), "value": turn["value"]} for turn in talk]
    table = {
        "id": 7,
        "image": {"path": "a/1.png", "bytes": None},
        "videos": ["b/2.mp4"],
        "conversation": talk,
    }
    assert from_llava(table, "mine") == plain


def test_paths_are_renamed_before_they_are_judged() -> None:
    rename = renaming(["coco/", "/home/me/data", "https://host/files", "C:\\data"], "images")
    for path in ("coco/a.png", "/home/me/data/a.png", "https://host/files/a.png", "C:\\data\\a.png", "a.png"):
        record = from_llava(llava("a", image=path), "mine", rename=rename)
        assert record.media == (Medium("image", "images/a.png"),)
    assert rename("cocoa/a.png") == "images/cocoa/a.png"
    with pytest.raises(RecordError, match="set the source's `strip`"):
        from_llava(llava("a", image="/elsewhere/a.png"), "mine")


def test_mark() -> None:
    assert mark("video") == "<video>"
