"""Each format of annotations by what its makers' own tools write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from made import archive_source, lines, llava, png, tar

from videollava.data.archives.listing import Member, list_members
from videollava.data.check.command import FORMATS
from videollava.data.records.annotations import Annotations, read_file
from videollava.data.records.conversations import REQUESTS
from videollava.data.records.conversion import from_llava, to_llava
from videollava.data.records.formats.format import Context
from videollava.data.records.readers import READERS, read_records
from videollava.data.records.record import Medium, Record
from videollava.data.records.rejected import Notes, Rejected
from videollava.errors import InputError
from videollava.params import Source


def read(items: list[Any], tmp_path: Path, form: str = "auto", **known: Any) -> list[Record | Rejected]:
    """Items through a file, as a reader has them."""
    path = lines(tmp_path / "notes.jsonl", items)
    file = Annotations("notes.jsonl", lambda: path.open("rb"))
    return list(read_file(file, form, "mine", Context(**known)))


def only(item: Any, tmp_path: Path, form: str = "auto", **known: Any) -> Record:
    (found,) = read([item], tmp_path, form, **known)
    assert isinstance(found, Record), found
    return found


def refused(item: Any, tmp_path: Path, form: str) -> Rejected:
    (found,) = read([item], tmp_path, form)
    assert isinstance(found, Rejected), found
    return found


def texts(record: Record) -> list[str]:
    return [turn.text for turn in record.turns]


def turns(*said: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]


def messages(*said: str, system: str = "") -> list[dict[str, str]]:
    told = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    return [{"role": "system", "content": system}, *told] if system else told


def test_every_format_of_the_parameters_has_a_reader() -> None:
    assert set(get_args(get_type_hints(Source)["format"])) == set(READERS) == set(FORMATS)


def test_video_llava_lists_of_pictures_and_clips(tmp_path: Path) -> None:
    item = {
        "id": "0",
        "video": ["a.mp4", "b.mp4"],
        "image": ["1.jpg", "2.jpg"],
        "conversations": turns("<video><video><image><image>\nwhat?", "this"),
    }
    record = only(item, tmp_path)
    assert [medium.path for medium in record.media] == ["a.mp4", "b.mp4", "1.jpg", "2.jpg"]
    assert from_llava(to_llava(record), "mine") == record


@pytest.mark.parametrize(
    ("media", "said", "read_as"),
    [
        ({"video": "a.mp4"}, "<image>\nwhat?", "<video>\nwhat?"),
        ({"video": ["a.mp4", "b.mp4"]}, "<image><image>what?", "<video><video>what?"),
        ({"image": "1.png"}, "<Image>\nwhat?", "<image>\nwhat?"),
        ({"image": ["1.png", "2.png"]}, "<image_1> or <image_2>?", "<image> or <image>?"),
        ({"video": "a.mp4"}, "[video] what?", "<video> what?"),
    ],
)
def test_marks_as_people_write_them(media: dict[str, Any], said: str, read_as: str, tmp_path: Path) -> None:
    notes = Notes()
    record = only({"id": "a", **media, "conversations": turns(said, "this")}, tmp_path, "llava", notes=notes)
    assert texts(record)[0] == read_as
    assert notes.total() == 1


@pytest.mark.parametrize(
    ("media", "said"),
    [
        ({"video": "a.mp4"}, "<image><image>what?"),  # one clip, two marks
        ({"image": "1.png"}, "what?"),  # no mark: only `messages` and `jsonl` put one
        ({"image": "1.png"}, "[image] or <Image>?"),
        ({"image": "1.png", "video": "a.mp4"}, "<image><Video>?"),
    ],
)
def test_marks_that_could_mean_two_things_are_not_mended(
    media: dict[str, Any], said: str, tmp_path: Path
) -> None:
    found = refused({"id": "a", **media, "conversations": turns(said, "this")}, tmp_path, "llava")
    assert found.reason == "marks and media differ"


@pytest.mark.parametrize(
    ("item", "present", "path"),
    [
        ({"video": "x/1.mp4"}, (), "x/1.mp4"),
        ({"video": "1"}, ("webvid/1.mp4",), "webvid/1.mp4"),
        ({"video": "1.mp4", "source": "jukinmedia"}, (), "jukinmedia/1.mp4"),
        ({"video": "1.mp4", "source": "jukinmedia"}, ("1.mp4",), "1.mp4"),
        ({"video": "y.mp4", "v_id": "y_0_10", "source": "VATEX"}, (), "VATEX/y_0_10.mp4"),
        ({"video": "y.mp4", "v_id": "y_0_10", "source": "VATEX"}, ("VATEX/y.mp4",), "VATEX/y.mp4"),
    ],
)
def test_valley_finds_its_clips(
    item: dict[str, Any], present: tuple[str, ...], path: str, tmp_path: Path
) -> None:
    item = {"v_id": "v", **item, "conversations": turns("<video>\nwhat?", "this")}
    record = only(item, tmp_path, present=lambda name: name in present)
    assert record.media == (Medium("video", path),)
    assert record.id == item["v_id"]


def test_video_chatgpt_as_published_and_as_its_script_rewrites_it(tmp_path: Path) -> None:
    published = {"q": "What is <video> in HTML?", "a": "An element.", "video_id": "v_1"}
    record = only(published, tmp_path)
    assert record.media == (Medium("video", "v_1"),)
    assert texts(record) == ["<video>\nWhat is \\<video> in HTML?", "An element."]
    rewritten = {"id": "v_1", "video": "v_1.pkl", "conversations": turns("What?\n<video>", "This.")}
    assert only(rewritten, tmp_path).media == (Medium("video", "v_1"),)
    found = refused({"q": "What?", "a": None, "video_id": "v_1"}, tmp_path, "video-chatgpt")
    assert "record" in found.detail or "field a" in found.detail
    assert "field a" in found.detail


def test_messages_with_images_and_videos(tmp_path: Path) -> None:
    item = {
        "messages": messages("<image>What, <video>and what?", "An elephant, a puppy.", system="Be brief."),
        "images": ["1.jpg"],
        "videos": ["2.mp4"],
    }
    notes = Notes()
    record = only(item, tmp_path, notes=notes)
    assert record.media == (Medium("image", "1.jpg"), Medium("video", "2.mp4"))
    assert texts(record)[0] == "Be brief.\n\n<image>What, <video>and what?"
    assert notes["system prompts were put before the first question"] == 1


def test_messages_as_ms_swift_takes_them(tmp_path: Path) -> None:
    notes = Notes()
    stock = {"messages": messages("q", "a", system="You are a helpful assistant."), "images": []}
    assert texts(only(stock, tmp_path, notes=notes)) == ["q", "a"]
    assert notes["stock system prompts were left out"] == 1
    unmarked = {"messages": messages("what?", "this"), "images": ["1.jpg", "2.jpg"], "videos": ["a.mp4"]}
    record = only(unmarked, tmp_path)
    assert texts(record)[0] == "<image>\n<image>\n<video>\nwhat?"
    caption = {"messages": [{"role": "assistant", "content": "<image>is a puppy"}], "images": ["1.jpg"]}
    record = only(caption, tmp_path)
    assert record.turns[1].text == "is a puppy"
    assert record.turns[0].text.removeprefix("<image>\n") in REQUESTS["image"]
    pairs = {
        "system": "S",
        "conversation": [{"human": "q", "assistant": "a"}, {"human": "r", "assistant": "b"}],
    }
    assert texts(only(pairs, tmp_path)) == ["S\n\nq", "a", "r", "b"]
    sharegpt = {"conversations": turns("<image>q", "a"), "system": "S", "images": ["1.jpg"]}
    assert texts(only(sharegpt, tmp_path)) == ["S\n\n<image>q", "a"]
    parts = [{"type": "image", "image": "1.jpg"}, {"type": "text", "text": "what?"}]
    item = {"messages": [*messages(system="S"), {"role": "user", "content": parts}, *messages("q", "a")[1:]]}
    record = only(item, tmp_path)
    assert texts(record)[0] == "S\n\n<image>\nwhat?"
    assert record.media == (Medium("image", "1.jpg"),)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"label": False}, "bad answer"),
        ({"tools": "[{}]"}, "tools"),
        ({"objects": {"bbox": [[1, 2, 3, 4]]}}, "boxes"),
    ],
)
def test_messages_that_are_trained_otherwise_are_refused(
    extra: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    assert refused({"messages": messages("q", "a"), **extra}, tmp_path, "messages").reason == reason


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"video": "a.mp4", "question": "what?", "answer": "this"}, ["<video>\nwhat?", "this"]),
        ({"video": "a.mp4", "prompt": "say <video> it", "response": "this"}, ["say <video> it", "this"]),
        ({"image": "1.png", "instruction": "name", "input": "it", "output": "x"}, ["<image>\nname\nit", "x"]),
        (
            {"images": ["1.png"], "query": "r", "response": "b", "history": [["q", "a"]]},
            ["<image>\nq", "a", "r", "b"],
        ),
        ({"video": "a.mp4", "qa": [{"q": "x", "a": 3}, ["y", "no"]]}, ["<video>\nx", "3", "y", "no"]),
        ({"question": "what?", "answer": True}, ["what?", "yes"]),
        ({"file_name": "1.png", "question": "what?", "answer": "x"}, ["<image>\nwhat?", "x"]),
        ({"image": "1.png", "text": "Is it?", "label": "yes"}, ["<image>\nIs it?", "yes"]),
        ({"video": "a.mp4", "prompt": "Describe.", "caption": "x"}, ["<video>\nDescribe.", "x"]),
        ({"system": "S", "question": "what?", "answer": "x"}, ["S\n\nwhat?", "x"]),
        ({"video_name": "v_1", "question": "what?", "answer": "x"}, ["<video>\nwhat?", "x"]),
    ],
)
def test_plain_lines(item: dict[str, Any], said: list[str], tmp_path: Path) -> None:
    record = only(item, tmp_path)
    assert texts(record) == said
    assert record.id == "0"


@pytest.mark.parametrize("field", ["image", "video", "file_name"])
def test_a_caption_gets_a_request_that_fits_its_medium(field: str, tmp_path: Path) -> None:
    path = "a.mp4" if field == "video" else "1.png"
    record = only({field: path, "caption": ["a dog", "a hound"]}, tmp_path)
    kind = record.media[0].kind
    assert (kind == "video") == (field == "video")
    assert record.turns[0].text.removeprefix(f"<{kind}>\n") in REQUESTS[kind]
    assert record.turns[1].text == "a dog"
    assert only({field: path, "caption": ["a dog", "a hound"]}, tmp_path) == record


@pytest.mark.parametrize(
    ("extra", "letter"),
    [
        ({"choices": ["cat", "dog"], "answer": "dog"}, "B"),
        ({"options": {"A": "cat", "B": "dog"}, "answer": "(b)"}, "B"),
        ({"candidates": ["cat", "dog"], "answer": 0}, "A"),
        ({"A": "cat", "B": "dog", "C": "cow", "answer": "C. cow"}, "C"),
        ({"a0": "cat", "a1": "dog", "answer": "1"}, "B"),
        ({"option_1": "cat", "option_2": "dog", "answer": "Cat"}, "A"),
    ],
)
def test_questions_with_choices_are_answered_by_a_letter(
    extra: dict[str, Any], letter: str, tmp_path: Path
) -> None:
    record = only({"video": "a.mp4", "question": "what?", "split": "test", **extra}, tmp_path, "jsonl")
    assert record.choices[:2] == ("cat", "dog")
    assert (record.answers, record.split) == ((letter,), "test")
    question, answer = texts(record)
    assert answer == letter
    assert question.startswith("<video>\nwhat?\nA. cat\nB. dog\n")
    assert question.endswith("Answer with the option's letter from the given choices directly.")
    assert from_llava(to_llava(record), "mine") == record


def test_choices_that_the_question_names_are_not_written_again(tmp_path: Path) -> None:
    item = {"question": "cat or dog?", "choices": ["cat", "dog"], "answer": "cat"}
    assert texts(only(item, tmp_path)) == ["cat or dog?", "A"]
    found = refused({**item, "answer": "cow"}, tmp_path, "jsonl")
    assert found.reason == "answer is no choice"
    found = refused({"question": "what?", "A": "cat", "B": "dog"}, tmp_path, "jsonl")
    assert found.reason == "no conversation"


def test_accepted_answers_types_and_splits(tmp_path: Path) -> None:
    item = {
        "question_id": 7,
        "image": "1.png",
        "question": "what?",
        "answers": [{"answer": "a cat"}, {"answer": "cat"}, {"answer": "cat"}],
        "question_type": "animal",
        "split": "val2014",
    }
    record = only(item, tmp_path)
    assert (record.id, record.kind, record.split) == ("7", "animal", "validation")
    assert record.answers == ("a cat", "cat", "cat")
    assert record.turns[1].text == "cat"
    assert refused({**item, "split": "tset"}, tmp_path, "jsonl").reason == "unknown split"
    assert only({**item, "split": "ego4d"}, tmp_path).split == ""


def test_a_key_that_is_a_slip_is_named(tmp_path: Path) -> None:
    found = refused({"vidoe": "a.mp4", "question": "what?", "answer": "x"}, tmp_path, "jsonl")
    assert (found.reason, "rename it to video" in found.detail) == ("unknown medium field", True)
    found = refused({"vidoe": "a.mp4", "caption": "a dog"}, tmp_path, "jsonl")
    assert "is 'vidoe' meant for 'video'?" in found.detail
    found = refused({"video": "a.mp4", "qestion": "what?", "answer": "x"}, tmp_path, "jsonl")
    assert "is 'qestion' meant for 'question'?" in found.detail
    found = refused({"id": "a", "conversatoins": turns("q", "a")}, tmp_path, "llava")
    assert "is 'conversatoins' meant for 'conversations'?" in found.detail
    found = refused({"id": "a", "conversations": [{"form": "human", "value": "q"}]}, tmp_path, "llava")
    assert "is 'form' meant for 'from'?" in found.detail
    found = refused({"id": "a", "imgae": "1.png", "conversations": turns("q", "a")}, tmp_path, "llava")
    assert "rename it to image" in found.detail


@pytest.mark.parametrize(
    ("item", "form"),
    [
        (llava("a", image="1.png"), "llava"),
        ({"v_id": "v", "video": "1.mp4", "conversations": turns("<video>q", "a")}, "valley"),
        ({"q": "q", "a": "a", "video_id": "v"}, "video-chatgpt"),
        ({"messages": messages("q", "a")}, "messages"),
        ({"video": "1.mp4", "caption": "a"}, "jsonl"),
    ],
)
def test_auto_takes_what_most_of_the_first_look_like(item: dict[str, Any], form: str, tmp_path: Path) -> None:
    notes = Notes()
    found = read([{"oops": 1}, item, item], tmp_path, notes=notes)
    assert [isinstance(one, Record) for one in found] == [False, True, True]
    assert notes[f"notes.jsonl: format {form}, as 2 of its first 3 records say"] == 1


def test_auto_says_what_it_knows_where_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"the first has the fields \['vidoe', 'captoin'\]; is 'vidoe' meant for"
    ):
        read([{"vidoe": "1.mp4", "captoin": "x"}], tmp_path)
    assert read([], tmp_path) == []


def catalogue(folder: Path) -> dict[str, Member]:
    found = (one for file in sorted(folder.glob("*.tar")) for one in list_members(file))
    return {one.name: one for one in found if isinstance(one, Member)}


def pairs(tmp_path: Path, members: dict[str, bytes], **source: Any) -> list[tuple[str, Record] | Rejected]:
    archive = tar(tmp_path / "00000.tar", members)
    chosen = archive_source(archive).replace(**{"format": "auto", **source})
    return list(read_records(chosen, tmp_path, catalogue(tmp_path)))


def test_webdataset_pairs_as_they_are(tmp_path: Path) -> None:
    members = {
        "a.jpg": png(),
        "a.txt": b"a dog ",
        "a.json": json.dumps({"key": "a", "caption": "other", "width": 20}).encode(),
        "b.mp4": b"clip",
        "b.json": json.dumps({"question": "what?", "answer": "x", "split": "test"}).encode(),
        "x/c.1.png": png(),
        "x/c.0.png": png(1),
        "x/c.json": json.dumps({**llava("c", image=["old/c.0.png", "old/c.1.png"])}).encode(),
        "d.png": png(2),
        "e.json": b"{",
        "e.png": png(3),
    }
    first, second, third, fourth, fifth = pairs(tmp_path, members)
    assert not isinstance(first, Rejected)
    assert not isinstance(second, Rejected)
    assert first[1].media == (Medium("image", "a.jpg"),)
    assert first[1].turns[1].text == "a dog"
    assert (second[1].media, second[1].split) == ((Medium("video", "b.mp4"),), "test")
    assert texts(second[1]) == ["<video>\nwhat?", "x"]
    assert not isinstance(third, Rejected)
    assert [medium.path for medium in third[1].media] == ["x/c.0.png", "x/c.1.png"]
    assert isinstance(fourth, Rejected)
    assert fourth.reason == "no conversation"
    assert isinstance(fifth, Rejected)
    assert (fifth.reason, fifth.record) == ("malformed record", "e")


def test_one_file_a_split(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar", {"1.png": png()})
    for name in ("train", "val", "test"):
        lines(tmp_path / f"{name}.jsonl", [{"image": "1.png", "question": name, "answer": "x"}])
    source = archive_source(archive).replace(format="jsonl")
    found = [entry[1] for entry in read_records(source, tmp_path, {}) if not isinstance(entry, Rejected)]
    assert [record.split for record in found] == ["test", "train", "validation"]
    only_test = source.replace(annotations="test.jsonl")
    assert [
        entry[1].split for entry in read_records(only_test, tmp_path, {}) if not isinstance(entry, Rejected)
    ] == [""]
    both = source.replace(annotations="t*.jsonl")
    assert len(list(read_records(both, tmp_path, {}))) == 2


@pytest.mark.parametrize(
    ("path", "form", "count"),
    [
        ("benchmarks/full/scienceqa/llava_test_CQM-A.subset.json", "llava", 0),
        ("reference/conversations.json", "llava", 4),
        ("benchmarks/samples/video_chatgpt5/generic_qa.sample.json", "video-chatgpt", 0),
        ("benchmarks/samples/video_chatgpt5/temporal_qa.sample.json", "video-chatgpt", 0),
        ("benchmarks/full/mm-vet/mm-vet.json", "jsonl", 0),
        ("benchmarks/full/pope/genuine/coco/coco_pope_random.json", "jsonl", 0),
    ],
)
def test_genuine_files_pass_their_readers(path: str, form: str, count: int, shared: Path) -> None:
    notes = Notes()
    file = Annotations(path, lambda: (shared / path).open("rb"))
    found = list(read_file(file, "auto", "mine", Context(notes=notes)))
    assert found
    assert [record for record in found if isinstance(record, Rejected)] == []
    assert count in (0, len(found))
    assert next(iter(notes)).startswith(f"{path}: format {form}, as ")


def test_genuine_media_in_webdataset_pairs(shared: Path, tmp_path: Path) -> None:
    captions = {
        "0": "Training a parakeet to climb up a ladder.",
        "1": "A lion climbing a tree to catch a monkey.",
    }
    members: dict[str, bytes] = {}
    for number, caption in captions.items():
        for folder in ("video", "image"):
            file = next((shared / "media" / folder).glob(f"{folder}_{number}.*"), None)
            if file is not None:
                members[file.name.replace("_", "")] = file.read_bytes()
                members[f"{folder}{number}.txt"] = caption.encode()
    found = pairs(tmp_path, members)
    assert len(found) == 4
    assert {entry[1].media[0].kind for entry in found if not isinstance(entry, Rejected)} == {
        "video",
        "image",
    }
