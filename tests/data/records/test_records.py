from __future__ import annotations

from typing import Any

import pytest
from made import llava

from videollava.data.archives.names import renaming
from videollava.data.records.conversion import from_llava, to_llava
from videollava.data.records.marks import mark
from videollava.data.records.record import Medium, Record, Turn
from videollava.data.records.rejected import RecordError
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
        (
            turns(("human", [{"type": "tool"}]), ("gpt", "a")),
            "malformed turn",
            "a part must be a text or one of",
        ),
        ({**llava("a", image="1.png"), "video": "2.mp4"}, "marks and media differ", "video"),
        (
            {**turns(("human", "<image><video>"), ("gpt", "a")), "image": "1.png"},
            "marks and media differ",
            "field video: 0 paths but 1",
        ),
        ({**llava("a"), "image": 7}, "malformed record", "image"),
        ({**llava("a"), "kind": 7}, "malformed record", "kind"),
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


def test_mark() -> None:
    assert mark("video") == "<video>"


def chat(*contents: Any, **media: Any) -> dict[str, Any]:
    turns = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    return {"id": "a", **media, "messages": turns}


def part(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


TEXT = part("text", text="what is it?")
PLAIN = (Turn("human", "<image>\nwhat is it?"), Turn("gpt", "a cat"))


@pytest.mark.parametrize(
    "item",
    [
        chat([part("image"), TEXT], "a cat", image="1.png"),
        chat([part("image", image="1.png"), TEXT], [part("text", text="a cat")]),
        chat([part("image", path="1.png"), TEXT], ["a cat"]),
        chat([part("image_url", image_url={"url": "1.png"}), TEXT], "a cat"),
        chat([part("image_url", image_url="1.png"), TEXT], "a cat"),
        chat([part("input_image", image_url="1.png"), part("input_text", text="what is it?")], "a cat"),
        # As Arrow fills in what some parts lack.
        chat([part("image", text=None), part("text", text="\nwhat is it?", index=0)], "a cat", images=["1.png"]),
        # A text part with the mark, and no part that is a medium.
        chat([part("text", text="<image>\nwhat is it?")], "a cat", image="1.png"),
        chat([part("image", image="1.png"), TEXT], "a cat", image="1.png"),
    ],
)  # fmt: skip
def test_content_in_parts_is_the_same_record(item: dict[str, Any]) -> None:
    assert from_llava(item, "mine") == Record("a", "mine", PLAIN, (Medium("image", "1.png"),))


def test_parts_keep_their_order_and_their_words() -> None:
    item = chat(
        [part("text", text="is <video> html?"), part("video", video="2.mp4"), part("image", image="1.png")],
        [part("text", text="yes, like <image>")],
        [part("text", text="and"), part("image", image="3.png"), "this?"],
        "no",
    )
    record = from_llava(item, "mine")
    assert [medium.path for medium in record.media] == ["2.mp4", "1.png", "3.png"]
    assert record.turns[0].text == "is \\<video> html?\n<video>\n<image>"
    assert record.turns[1].text == "yes, like \\<image>"
    assert record.turns[2].text == "and\n<image>\nthis?"
    words = from_llava(chat([part("text", text="what is <video> in html?")], "a tag"), "mine")
    assert (words.media, words.turns[0].text) == ((), "what is <video> in html?")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (chat([part("image"), TEXT], "a"), "1 parts are of kind image and nothing names a file"),
        (
            chat([part("image", image="1.png"), part("image"), TEXT], "a"),
            "2 parts are of kind image and 1 of them",
        ),
        (chat([part("image", image="1.png"), TEXT], "a", image="2.png"), "name different media"),
        (chat([part("image", image="data:image/png;base64,AA"), TEXT], "a"), "put its bytes into an archive"),
        (chat([part("tool_use"), TEXT], "a"), "a part must be a text or one of image, video"),
        (chat([7, TEXT], "a"), "a part must be a text"),
        (chat([part("text", text=["x"])], "a"), "a part must be a text"),
        (chat([TEXT], [part("text", text=" ")]), "the answer is empty"),
        (chat([TEXT], [part("image", image="1.png")]), "media belong in human turns"),
    ],
)
def test_parts_that_mean_nothing_are_named(item: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordError) as caught:
        from_llava(item, "mine", "file.json: entry 3")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("item", "reason", "said"),
    [
        ({**llava("a"), "id": "x\ud800"}, "invalid text", "field id"),
        ({**llava("a"), "kind": "x\ud800"}, "invalid text", "field kind"),
        ({**llava("a"), "image": "data:image/png;base64,AA"}, "malformed record", "put them into an archive"),
        (
            {**llava("a"), "images": [{"bytes": "AA", "path": None}]},
            "malformed record",
            "put them into an archive",
        ),
        ({**llava("a"), "img": "x/1.PNG"}, "unknown medium field", "holds 'x/1.PNG'"),
        ({**llava("a"), "video_name": ["1.mp4"]}, "unknown medium field", "or leave it out"),
        (
            {**turns(("human", "<image>q"), ("gpt", "a")), "files": ["1.png"]},
            "unknown medium field",
            "to image,",
        ),
        (
            {**turns(("human", "<video>q"), ("gpt", "a")), "meta": {"f": "1.mp4"}},
            "unknown medium field",
            "to video,",
        ),
    ],
)
def test_media_are_not_lost_nor_letters_that_no_table_takes(
    item: dict[str, Any], reason: str, said: str
) -> None:
    with pytest.raises(RecordError) as caught:
        from_llava(item, "mine", "file.json: entry 3")
    assert caught.value.reason == reason
    assert said in str(caught.value)
    assert from_llava({**llava("a"), "origin": "https://host/1.png", "image_count": 0}, "mine").media == ()
