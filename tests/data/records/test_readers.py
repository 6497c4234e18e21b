from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from made import CLIPS, archive_source, lines, llava, params, png, tar

from videollava.data.acquire.fetch import run as fetch
from videollava.data.archives.listing import Member, list_members
from videollava.data.records.conversations import TURNS
from videollava.data.records.formats.easy_vqa import known_facts
from videollava.data.records.readers import Rejected, read_records
from videollava.data.records.record import Record
from videollava.errors import InputError
from videollava.params import Source

EASY = Source(name="easy_vqa", kind="package", format="easy-vqa", package="easy-vqa")


def read(source: Source, folder: Path) -> list[tuple[str, Record] | Rejected]:
    members = (
        found
        for archive in sorted(folder.glob("*.tar"))
        for found in list_members(archive)
        if isinstance(found, Member)
    )
    return list(read_records(source, folder, {member.name: member for member in members}))


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    workspace = tmp_path_factory.mktemp("easy")
    fetch(params(EASY), workspace)
    by_split: dict[str, list[Record]] = {}
    for entry in read(EASY, workspace / "data/raw/easy_vqa"):
        assert not isinstance(entry, Rejected)
        by_split.setdefault(entry[0], []).append(entry[1])
    return by_split


def test_the_whole_test_set_is_asked_question_by_question(easy: dict[str, list[Record]]) -> None:
    records = easy["test-easy_vqa"]
    assert Counter(record.kind for record in records) == {"yes_no": 7136, "color": 1280, "shape": 1257}
    assert len({record.id for record in records}) == 9673
    assert all(record.media[0].path.startswith("test/images/") for record in records)
    first = records[0]
    assert [turn.text for turn in first.turns] == ["<image>\nwhat is the red shape?", "triangle"]


def test_training_questions_are_all_there_in_bounded_conversations(easy: dict[str, list[Record]]) -> None:
    records = easy["finetune"]
    assert sum(len(record.turns) for record in records) == 2 * 38575
    assert max(len(record.turns) for record in records) == 2 * TURNS["image"]
    for record in records:
        assert [turn.role for turn in record.turns] == ["human", "gpt"] * (len(record.turns) // 2)
        assert record.turns[0].text.startswith("<image>\n")
        assert not any("<image>" in turn.text for turn in record.turns[1:])
        assert record.media[0].path.startswith("train/images/")


def test_captions_are_true_of_the_pictures(easy: dict[str, list[Record]], tmp_path: Path) -> None:
    captions = {record.media[0].path: record.turns[1].text for record in easy["align"]}
    assert len(captions) == 3578
    assert len(set(captions.values())) == 24
    assert len(easy["pretrain"]) == 3971
    assert {record.turns[1].text for record in easy["pretrain"]} > set(captions.values())
    said: dict[str, list[tuple[str, str]]] = {}
    for record in easy["finetune"]:
        turns = [turn.text for turn in record.turns]
        said.setdefault(record.media[0].path, []).extend(zip(turns[::2], turns[1::2], strict=True))
    for path, caption in captions.items():
        _, color, shape = caption.split()
        for question, answer in said[path]:
            words = question.rstrip("?").split()
            if answer in ("yes", "no") and {color, shape} & set(words):
                assert (answer == "yes") != bool({"not", "no"} & set(words))


@pytest.mark.parametrize(
    ("pairs", "facts"),
    [
        ([("what color is the circle?", "red")], ("red", "circle")),
        ([("what is the blue shape?", "rectangle")], ("blue", "rectangle")),
        ([("is there a teal shape?", "yes"), ("what shape is present?", "circle")], ("teal", "circle")),
        ([("is there not a circle?", "no")], (None, "circle")),
        ([("is no gray shape present?", "no")], ("gray", None)),
        ([("is there a circle?", "no"), ("is there not a triangle?", "yes")], (None, "rectangle")),
        ([("is there a circle?", "no")], (None, None)),
    ],
)
def test_known_facts(pairs: list[tuple[str, str]], facts: tuple[str | None, str | None]) -> None:
    assert known_facts(pairs) == facts


def test_clips(tmp_path: Path) -> None:
    fetch(params(CLIPS), tmp_path)
    folder = tmp_path / "data/raw/toy_clips"
    entries = [entry for entry in read(CLIPS, folder) if not isinstance(entry, Rejected)]
    assert Counter(split for split, _ in entries) == {
        "align": 24,  # each clip, and a still of it
        "pretrain": 12,
        "finetune": 12,
        "test-toy_video_qa": 4 * 8 + 4 * 10,
    }
    kinds = Counter(record.kind for split, record in entries if split.startswith("test"))
    assert kinds == {"yes_no": 40, "color": 8, "shape": 8, "direction": 8, "order": 8}
    for split, record in entries:
        prefix = "test/" if split.startswith("test") else "train/"
        assert record.media[0].path.startswith(prefix)
        assert record.turns[0].text.startswith(f"<{record.media[0].kind}>\n")
    assert entries == [entry for entry in read(CLIPS, folder) if not isinstance(entry, Rejected)]
    other = [entry for entry in read(CLIPS.replace(seed=4), folder) if not isinstance(entry, Rejected)]
    assert other != entries


def test_clips_with_bad_lines(tmp_path: Path) -> None:
    fetch(params(CLIPS), tmp_path)
    folder = tmp_path / "data/raw/toy_clips"
    good = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    bad = [
        "{",
        {"id": "x"},
        {**good, "questions": []},
        {**good, "questions": [["q", "a"]]},
        {**good, "captions": []},
    ]
    lines(folder / "train.jsonl", [good, *bad, good])
    found = read(CLIPS, folder)
    rejected = [entry for entry in found if isinstance(entry, Rejected)]
    assert [entry.record for entry in rejected] == [f"line {number}" for number in range(2, 7)]
    assert [entry.reason for entry in rejected] == ["malformed line", *["malformed record"] * 4]
    assert sum(not isinstance(entry, Rejected) and entry[0] == "pretrain" for entry in found) == 2
    (folder / "test.jsonl").unlink()
    with pytest.raises(InputError, match=r"test\.jsonl: not found; run `videollava fetch`"):
        read(CLIPS, folder)


def test_easy_vqa_with_a_bad_question(tmp_path: Path) -> None:
    questions = [
        ["is there a circle?", "yes", 0],
        ["what?", "purple", 0],
        "text",
        ["what shape is present?", "circle", "0"],
    ]
    members = {f"{split}/questions.json": json.dumps(questions).encode() for split in ("train", "test")}
    tar(tmp_path / "easy_vqa.tar", members)
    found = read(EASY, tmp_path)
    rejected = [entry for entry in found if isinstance(entry, Rejected)]
    assert [(entry.file, entry.record) for entry in rejected] == [
        (f"{split}/questions.json", str(number)) for split in ("train", "test") for number in (1, 2, 3)
    ]
    assert [entry[0] for entry in found if not isinstance(entry, Rejected)] == [
        "pretrain",
        "finetune",
        "test-easy_vqa",
    ]
    tar(tmp_path / "easy_vqa.tar", {"a.png": png()})
    with pytest.raises(InputError, match=r"no member train/questions\.json"):
        read(EASY, tmp_path)


def test_llava_annotations_beside_or_inside_the_archive(tmp_path: Path) -> None:
    items = [llava("a", image="1.png"), llava("b")]
    inside = tar(tmp_path / "in/a.tar", {"1.png": png(), "notes.json": json.dumps(items).encode()})
    found = read(archive_source(inside), inside.parent)
    assert [entry[1].id for entry in found if not isinstance(entry, Rejected)] == ["a", "b"]
    assert {entry[0] for entry in found if not isinstance(entry, Rejected)} == {"finetune"}
    beside = tar(tmp_path / "out/a.tar", {"1.png": png()})
    lines(tmp_path / "out/notes.jsonl", items)
    assert read(archive_source(beside), beside.parent) == found
    lines(tmp_path / "out/other.jsonl", items[:1])
    with pytest.raises(InputError, match=r"annotations: not named; name one of: notes\.jsonl, other\.jsonl"):
        read(archive_source(beside), beside.parent)
    for name in ("other.jsonl", "https://host/other.jsonl"):
        assert len(read(archive_source(beside, annotations=name), beside.parent)) == 1
    with pytest.raises(InputError, match=r"annotations: missing\.json"):
        read(archive_source(beside, annotations="missing.json"), beside.parent)
    with pytest.raises(InputError, match="needs `use`"):
        read(archive_source(beside, use="", annotations="other.jsonl"), beside.parent)


def test_llava_entries_without_id_get_their_number_and_bad_ones_are_named(tmp_path: Path) -> None:
    nameless = llava("x")
    del nameless["id"]
    lines(tmp_path / "notes.jsonl", [nameless, "oops", llava("b") | {"image": 7}, llava("c")])
    archive = tar(tmp_path / "a.tar", {"1.png": png()})
    first, second, third, last = read(archive_source(archive), tmp_path)
    assert not isinstance(first, Rejected)
    assert first[1].id == "0"
    assert isinstance(second, Rejected)
    assert (second.reason, second.file, second.record) == ("malformed line", "notes.jsonl", "1")
    assert isinstance(third, Rejected)
    assert (third.reason, third.record) == ("malformed record", "b")
    assert not isinstance(last, Rejected)


def test_alignment_takes_one_medium_and_one_caption(tmp_path: Path) -> None:
    lines(
        tmp_path / "notes.jsonl",
        [llava("a", image="1.png"), llava("b"), llava("c", image=["1.png", "1.png"])],
    )
    archive = tar(tmp_path / "a.tar", {"1.png": png()})
    found = read(archive_source(archive, use="align"), tmp_path)
    assert not isinstance(found[0], Rejected)
    assert [entry.reason for entry in found[1:] if isinstance(entry, Rejected)] == ["not a caption"] * 2
