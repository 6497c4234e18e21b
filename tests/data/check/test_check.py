"""`videollava check` as a person runs it, and the counts behind it."""

from __future__ import annotations

import gzip
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from made import archive_source, lines, llava, params, png, tar
from split_zips import split_zip

from videollava.cli import main
from videollava.data.acquire.fetch import run as fetch
from videollava.data.check.lengths import Task, measure
from videollava.data.check.picture import bars_of, draw
from videollava.data.check.places import Folder
from videollava.data.records.record import Medium, Record, Turn
from videollava.data.text.bounds import Bound
from videollava.data.text.prompts import encode
from videollava.data.text.vocabulary import TrainedTokenizer, train_tokenizer
from videollava.params import Source

GOOD = [{"image": f"{n}.png", "question": f"what is {n}?", "answer": "it is " + "x " * n} for n in range(8)]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and what --json prints."""
    status = main(["check", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_a_good_file_passes_and_its_parts_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    lines(Path("own.jsonl"), [*GOOD, {"question": "why?", "answer": "so", "split": "test", "kind": "reason"}])
    status, found = told(capsys, "own.jsonl")
    assert status == 0
    assert (found["records"], found["usable"], found["text_only"], found["turns"]) == (9, 9, 1, 18)
    assert (found["media"], found["distinct_media"], found["marks"]) == (
        {"image": 8},
        {"image": 8},
        {"image": 8},
    )
    assert found["splits"] == {"not said": 8, "test": 1}
    assert found["kinds"] == {"reason": 1}
    assert found["notes"]["own.jsonl: format jsonl, as 9 of its first 9 records say"] == 1
    assert not found["media_searched"]
    assert found["lengths_are"].startswith("estimated")
    assert ElementTree.parse(found["picture"]).getroot().tag.endswith("svg")
    assert Path(found["all_problems"]).read_text() == ""


def test_every_problem_is_told_with_its_place_and_too_many_fail(capsys: pytest.CaptureFixture[str]) -> None:
    bad = [
        {"imgae": "1.png", "question": "what?", "answer": "x"},
        {"image": "1.png", "question": "what?", "answer": ""},
        "{",
        {"image": "1.png", "question": "what?", "answer": "x", "split": "tset"},
    ]
    lines(Path("own.jsonl"), [*GOOD, *bad])
    status, found = told(capsys, "own.jsonl", "--format", "jsonl")
    assert status == 1
    assert found["quarantined"] == {
        "unknown medium field": 1,
        "no conversation": 1,
        "malformed line": 1,
        "unknown split": 1,
    }
    listed = [json.loads(line) for line in Path("runs/check/problems.jsonl").read_text().splitlines()]
    assert listed == found["problems"]
    assert [problem["record"] for problem in listed] == ["8", "9", "10", "11"]
    assert [problem["field"] for problem in listed] == ["imgae", "answer", "", "split"]
    assert all(problem["file"] == "own.jsonl" for problem in listed)
    assert "own.jsonl: entry 8" in listed[0]["detail"]
    assert "rename it to image" in listed[0]["detail"]
    assert "line 11" in listed[2]["detail"]
    assert found["notes"]["own.jsonl: field 'imgae' is not read; is 'image' meant?"] == 1


def test_what_was_read_before_a_break_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.json").write_text(f"[{json.dumps(llava('a'))}, {json.dumps({'id': 'b'})}, {{")
    status, found = told(capsys, "own.json")
    assert (status, found["usable"], found["quarantined"]) == (1, 1, {"no conversation": 1})
    assert "item 2 of the list is not JSON" in found["stopped"]
    assert main(["check", "own.json"]) == 1
    assert "It can't be read to its end: own.json: line 1" in " ".join(capsys.readouterr().out.split())


def test_a_medium_of_two_kinds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    lines(Path("own.jsonl"), [llava("a", image="1.gif"), llava("b", video="1.gif")])
    status, found = told(capsys, "own.jsonl")
    assert (status, found["quarantined"]) == (1, {"medium of two kinds": 1})
    assert found["problems"][0]["field"] == "video"


def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines(Path("own.jsonl"), [*GOOD, {"image": "1.png", "question": "[red]what?", "answer": ""}, GOOD[0]])
    assert main(["check", "own.jsonl"]) == 1
    shown = capsys.readouterr().out
    for words in (
        "9 of 10 records can be used; 1 (10.0%) would be quarantined",
        "Media were not looked for: give --media FOLDER.",
        "no conversation",
        "field answer: is missing",
        "says what entry 0 says",
        "tokens a record (estimated at 4 characters a token",
        "every problem: runs/check/problems.jsonl",
    ):
        assert words in shown


def test_words_of_the_data_neither_format_nor_command_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    odd = "[/red]\x1b[31m\0"
    items = [
        {"id": odd, "image": "1.png", "question": "what?", "answer": "x", "kind": odd},
        {"id": odd, "image": odd, "question": "what?", "answer": "", odd: "1.png", "imag\x1be": "2.png"},
        {"image": "\ud800.png", "question": "what?", "answer": "x"},
        {"image": "y" * 5000, "question": odd, "answer": "x"},
    ]
    lines(Path("own.jsonl"), items)
    Path("media").mkdir()
    for more in ((), ("--media", "media")):
        assert main(["check", "own.jsonl", "--format", "jsonl", *more]) == 1
        shown = capsys.readouterr().out
        assert "invalid text" in shown
        assert not {"\x1b", "\0"} & set(shown)


def test_repeats_ids_and_media_on_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    items = [
        llava("a", image="1.png"),
        llava("a", image="2.png"),
        {**llava("c", image="1.png"), "split": "test"},
        llava("d", image="3.png"),
        {**llava("d", image="3.png"), "id": "e"},
    ]
    lines(Path("own.jsonl"), items)
    status, found = told(capsys, "own.jsonl")
    assert status == 0
    assert found["warnings"] == {"id of another record": 1, "repeats another record": 1}
    assert found["media_in_test_and_training"] == 1


@pytest.mark.parametrize("packed", [False, True])
def test_media_are_looked_for(packed: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    items = [
        *GOOD,
        {"image": "lost.png", "question": "what?", "answer": "x"},
        {"image": "../secret.png", "question": "what?", "answer": "x"},
        {"image": "link.png", "question": "what?", "answer": "x"},
    ]
    lines(tmp_path / "notes/own.jsonl", items)
    (tmp_path / "secret.png").write_bytes(png())
    names = {f"{n}.png": png(n) for n in range(1, 8)} | {"0.PNG": png()}
    if packed:
        tar(tmp_path / "media/a.tar", names)
    else:
        for name, data in names.items():
            (tmp_path / "media").mkdir(exist_ok=True)
            (tmp_path / "media" / name).write_bytes(data)
        (tmp_path / "media/link.png").symlink_to("../secret.png")
    status, found = told(capsys, "notes/own.jsonl", "--media", "media")
    assert status == 1
    assert found["media_searched"]
    assert found["quarantined"] == {"missing medium": 2, "unsafe path": 1}
    assert found["usable"] == 8  # 0.png as 0.PNG
    assert found["media_bytes"] == sum(map(len, names.values()))
    assert {problem["field"] for problem in found["problems"]} == {"image"}
    assert "lost.png" in found["problems"][0]["detail"]


def test_members_of_one_name_are_not_guessed_at(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines(Path("own.jsonl"), GOOD[:3])
    for n in range(2):
        tar(tmp_path / f"media/{n}.tar", {"0.png": png(n), "1.png": png(), "__MACOSX/._1.png": b"x"})
    tar(tmp_path / "media/2.tar", {"2.png": png()})
    status, found = told(capsys, "own.jsonl", "--media", "media")
    assert (status, found["usable"], found["quarantined"]) == (1, 2, {"ambiguous medium": 1})
    assert found["notes"]["members of archives that are not read: ambiguous member"] == 1
    assert found["notes"]["members of archives that are not read: duplicate member"] == 1
    assert found["notes"]["members of archives that are not read: left by an operating system"] == 2


def test_a_tar_of_pairs_is_a_source_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"a.png": png(), "a.txt": b"a dog", "b.png": png(1), "b.txt": b"a cat"})
    (tmp_path / "1.tar.gz").write_bytes(gzip.compress((tmp_path / "0.tar").read_bytes()))
    for name in ("0.tar", "1.tar.gz"):
        status, found = told(capsys, name, "--use", "pretrain")
        assert (status, found["usable"], found["media_bytes"]) == (0, 2, len(png()) + len(png(1)))


def test_a_folder_of_media_and_what_is_told_of_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for split, names in (("train", "ab"), ("test", "c")):
        items = [{"file_name": f"{name}.png", "text": f"a {name}"} for name in names]
        lines(tmp_path / f"set/{split}/metadata.jsonl", items)
        for name in names:
            (tmp_path / f"set/{split}/{name}.png").write_bytes(png())
    status, found = told(capsys, "set", "--use", "pretrain")
    assert (status, found["usable"], found["splits"]) == (0, 3, {"test": 1, "train": 2})
    for name in "xyz":
        (tmp_path / "pairs").mkdir(exist_ok=True)
        (tmp_path / f"pairs/{name}.png").write_bytes(png())
        (tmp_path / f"pairs/{name}.txt").write_text(f"an {name}")
    status, found = told(capsys, "pairs", "--use", "pretrain")
    assert (status, found["usable"], found["media"]) == (0, 3, {"image": 3})
    for name in "xyz":
        (tmp_path / f"pairs/{name}.txt").rename(tmp_path / f"pairs/{name}.json")
        (tmp_path / f"pairs/{name}.json").write_text('{"question": "what?", "answer": "x"}')
    status, found = told(capsys, "pairs")
    assert (status, found["usable"], found["media"]) == (0, 3, {"image": 3})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.jsonl"], "no file, no folder and no source of params.yaml"),
        (["own.jsonl", "--media", "nowhere"], "--media nowhere: not found"),
        (["own.jsonl", "--tokenizer", "nowhere"], "--tokenizer nowhere: no folder"),
        (["empty.jsonl"], "no record is in it"),
        (["strange.jsonl"], r"is 'qestion' meant for 'question'\?"),
        (["broken.json"], "line 1: item 0 of the list is not JSON"),
        (["text.tar"], "unreadable archive.*annotations are files named .json or .jsonl"),
    ],
)
def test_what_cannot_be_checked_is_said_in_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(Path("own.jsonl"), GOOD)
    lines(Path("strange.jsonl"), [{"qestion": "q", "anwser": "a"}])
    Path("empty.jsonl").write_text("")
    Path("broken.json").write_text('[{"id')
    Path("text.tar").write_text("no tar")
    assert main(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    import re

    assert re.search(said, error)


def record(text: str, *kinds: Literal["image", "video"]) -> Record:
    marks = "".join(f"<{kind}>\n" for kind in kinds)
    media = tuple(Medium(kind, f"{n}.x") for n, kind in enumerate(kinds))
    return Record("a", "mine", (Turn("human", f"{marks}what?"), Turn("gpt", text)), media)


def test_counted_lengths_and_cuts_are_those_of_training(tmp_path: Path) -> None:
    train_tokenizer(["it is a dog " * 50, "what?"], 300, tmp_path / "tokenizer")
    tokenizer = TrainedTokenizer(tmp_path / "tokenizer")
    bound = Bound(
        "finetune",
        max_text_tokens=400,
        max_tokens=500,
        positions=600,
        image_tokens=4,
        video_tokens=15,
        frames=3,
    )
    long, short = record("it is a dog " * 200, "image"), record("it is", "image", "video")
    crowded = record("it is", *("video",) * 40)
    task = Task(tmp_path / "tokenizer", 4, 15, "v1", bound, [short, long, crowded])
    first, second, third = measure(task)
    text = encode(short.turns, ["image", "video"], tokenizer).text_tokens
    assert (first.tokens, first.cut, first.refused) == (text + 4 + 15, 0, "")
    text = encode(long.turns, ["image"], tokenizer).text_tokens
    assert (second.tokens, second.cut) == (text + 4, text - 399)
    assert "its 40 media take" in third.refused


def test_estimated_lengths_are_near_for_plain_words() -> None:
    task = Task(None, 256, 2056, "v1", None, [record("word " * 400, "video"), record("字" * 100)])
    words, signs = measure(task)
    assert 2056 + 400 <= words.tokens <= 2056 + 700
    assert 100 <= signs.tokens <= 250


def test_too_long_counts_as_quarantined(capsys: pytest.CaptureFixture[str]) -> None:
    many = [{"video": [f"{n}.mp4" for n in range(3000)], "question": "what?", "answer": "x"}]
    lines(Path("own.jsonl"), many)
    status, found = told(capsys, "own.jsonl")
    assert (status, found["quarantined"]) == (1, {"too long": 1})


def test_a_picture_of_lengths() -> None:
    bars = bars_of({5: 1, 17: 2, 99: 1}, 10)
    assert sum(bar.count for bar in bars) == 4
    assert {bar.high - bar.low for bar in bars} == {10}
    assert (bars[0].low, bars[-1].high) == (0, 100)
    drawn = draw(bars, "a <b> & c", {"max_tokens": 50, "positions": 5000})
    root = ElementTree.fromstring(drawn)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "a <b> & c" in texts
    assert "max_tokens 50" in texts
    assert not any("positions" in (text or "") for text in texts)
    assert bars_of({}) == []
    ElementTree.fromstring(draw([], "none", {}))


def test_a_folder_holds_what_lies_in_it_alone(tmp_path: Path) -> None:
    (tmp_path / "in/x").mkdir(parents=True)
    (tmp_path / "in/x/1.png").write_bytes(b"123")
    (tmp_path / "out.png").write_bytes(b"1")
    (tmp_path / "in/out").symlink_to(tmp_path)
    (tmp_path / "in/1.png").symlink_to("x/1.png")
    folder = Folder(tmp_path / "in")
    assert folder["x/1.png"].size == folder["1.png"].size == 3
    assert sorted(folder) == ["1.png", "x/1.png"]
    for name in (
        "../out.png",
        "/etc/passwd",
        "out/out.png",
        "x",
        "",
        "a\0b",
        "y" * 5000,
        "file:///etc/passwd",
    ):
        assert name not in folder


def test_a_folder_with_archives_in_it_is_read_as_the_pipeline_reads_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = ("packed/1.png", "packed/2.png", "loose.png", "deep/3.png", "both.png", "unlike.png")
    items = [{"image": name, "question": "what?", "answer": "x"} for name in names]
    lines(tmp_path / "set/own.jsonl", items)
    media = {name: png(number) for number, name in enumerate((*names[:2], *names[4:]))}
    files = {f"{number}.txt": bytes(9_000) for number in range(9)}
    split_zip(tmp_path / "set/x.zip", media | files, 20_000)
    tar(tmp_path / "set/more/y.tar", {"deep/3.png": png(7)})
    for name, data in {"loose.png": png(8), "both.png": media["both.png"], "unlike.png": png(9)}.items():
        (tmp_path / "set" / name).write_bytes(data)
    status, found = told(capsys, "set")
    assert (status, found["usable"], found["quarantined"]) == (1, 5, {"ambiguous medium": 1})
    (tmp_path / "set/unlike.png").unlink()
    status, found = told(capsys, "set")
    assert (status, found["usable"], found["quarantined"]) == (0, 6, {})
    (tmp_path / "set/x.z02").unlink()
    assert main(["check", "set"]) == 2
    assert "set/x.z01: unreadable archive: part z02 of x.zip is not there" in capsys.readouterr().err
    own = {"kind": "folder", "path": "set", "use": "finetune", "format": "auto"}
    fetch(params(Source(name="set", **own)), tmp_path)  # type: ignore[arg-type]
    Path("params.yaml").write_text(yaml.safe_dump({"sources": {"set": own}}))
    capsys.readouterr()
    status, found = told(capsys, "set")
    assert (status, found["usable"], found["quarantined"]) == (1, 3, {"missing medium": 3})
    lacking = "part z02 of x.zip is not there; put all its parts into the source"
    assert found["notes"][f"x.z01: unreadable archive: {lacking}"] == 1


def test_a_source_is_checked_with_its_own_media(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"clips/1.png": png(), "clips/2.png": png(1)})
    items = [{"image": f"{n}.png", "question": "what?", "answer": "x"} for n in (1, 2, 3)]
    lines(tmp_path / "own.jsonl", items)
    source = archive_source(tmp_path / "a.tar", tmp_path / "own.jsonl").replace(
        format="auto", prefix="clips/"
    )
    fetch(params(source), tmp_path)
    (tmp_path / "mine").mkdir()  # a source's name comes before a folder's
    written = source.model_dump(mode="json", exclude_defaults=True)
    Path("params.yaml").write_text(yaml.safe_dump({"sources": {"mine": written}}))
    capsys.readouterr()
    status, found = told(capsys, "mine")
    assert (status, found["usable"], found["quarantined"]) == (1, 2, {"missing medium": 1})
    assert found["notes"]["own.jsonl: format jsonl, as 3 of its first 3 records say"] == 1
    assert main(["check", "mine", "--media", "."]) == 2
    assert "leave --media and --use out, or write ./mine for the folder" in capsys.readouterr().err
