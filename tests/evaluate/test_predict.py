"""Inference: every question answered once, the same alone or in batches, by one rank or two, killed or not."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from evaluation_files import picture, write_files, write_json, write_lines

from videollava.errors import InputError
from videollava.evaluate import media as media_module
from videollava.evaluate.answers import AnswerLog, Given, write_answers
from videollava.evaluate.generate import generate
from videollava.evaluate.media import Reader, blindfold, encode_windows, media_of, read_means, sum_features
from videollava.evaluate.predict import Settings, predict
from videollava.evaluate.prompting import prompt_sample
from videollava.evaluate.questions import Item, QuestionSet, read_questions
from videollava.evaluate.ranks import Ranks
from videollava.params import Evaluate

WORDS = ("color", "shape", "side", "thing", "red circle", "blue square", "way")
NEW = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures; read only."""
    return write_files(tmp_path_factory.mktemp("pictures"), {f"p{n}.png": picture(n) for n in range(10)})


@pytest.fixture(scope="module")
def items() -> list[Item]:
    """Questions about the pictures, some about two, one about none."""
    made = [Item("none", "", "what is red?", "")]
    for n in range(21):
        names = (f"p{n * 7 % 10}.png", f"p{n % 10}.png")[: 1 + (n % 5 == 0)]
        marks = "<image>\n" * len(names)
        made.append(Item(f"q{n}", "", f"{marks}what {WORDS[n % 7]} is it, {'really ' * (n % 4)}?", "", names))
    return made


@pytest.fixture(scope="module")
def ask(micro: Any, folder: Path, items: list[Item]) -> Callable[..., Given]:
    """ask(log folder, **changes): predict, and what the log then holds."""
    model, tokenizer = micro

    def run(
        target: Path, ranks: Ranks | None = None, asked: list[Item] | None = None, **options: Any
    ) -> Given:
        ranks = ranks or Ranks()
        reader = options.pop("reader", None) or Reader.of(model.config, folder, "pad")
        encode = options.pop("encode", None) or partial(
            encode_windows, model, reader, options.pop("workers", 0)
        )
        log = AnswerLog(target, ranks.rank)
        settings = Settings(NEW, 300, ranks)
        predict(model, tokenizer, items if asked is None else asked, encode, log, settings, **options)
        return log.read()

    return run


@pytest.fixture(scope="module")
def whole(ask: Callable[..., Given], tmp_path_factory: pytest.TempPathFactory) -> Given:
    """All answers, in one go."""
    return ask(tmp_path_factory.mktemp("whole"))


def lines(folder: Path) -> list[str]:
    found = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line)["question_id"] for line in found]


def test_answers_are_those_of_one_by_one(
    micro: Any,
    ask: Callable[..., Given],
    items: list[Item],
    whole: Given,
    folder: Path,
    tmp_path: Path,
    capsys: Any,
) -> None:
    model, tokenizer = micro
    given = ask(tmp_path / "log", name="set")
    assert given == whole
    reader = Reader.of(model.config, folder, "pad")
    for item in items:
        pixels = [torch.from_numpy(reader(medium)) for medium in item.seen]
        sample = prompt_sample(model, tokenizer, item.question, pixels, [])
        assert given.texts[item.id] == generate(model, tokenizer, [sample], NEW)[0]
    assert len(set(given.texts.values())) > 10
    assert capsys.readouterr().out.startswith("set 22/22  ")
    assert ask(tmp_path / "log") == given  # nothing is asked again
    assert sorted(lines(tmp_path / "log")) == sorted(item.id for item in items)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_are_one_bit_equal(
    ask: Callable[..., Given], items: list[Item], whole: Given, tmp_path: Path, ranks: int
) -> None:
    given = Given()  # all of them read before one of them writes
    first = ask(tmp_path / "log", Ranks(0, ranks), given=given)
    assert 0 < len(first) < len(items)
    found = [ask(tmp_path / "log", Ranks(rank, ranks), given=given) for rank in range(1, ranks)]
    assert found[-1] == whole
    assert len(lines(tmp_path / "log")) == len(items)
    assert {path.name for path in (tmp_path / "log").iterdir()} == {f"{n}.jsonl" for n in range(ranks)}


def _halt_after(answers: int, tell: int) -> None:
    """This process says so when it has written that many, and waits to be killed."""
    torch.set_num_threads(1)
    count = 0
    add = AnswerLog.add

    def halting(self: AnswerLog, question: str, text: str) -> None:
        nonlocal count
        add(self, question, text)
        count += 1
        if count == answers:
            os.write(tell, b"!")
            signal.pause()

    AnswerLog.add = halting  # type: ignore[method-assign]


def test_killed_in_the_middle_it_goes_on(
    ask: Callable[..., Given], items: list[Item], whole: Given, tmp_path: Path
) -> None:
    """SIGKILL in the middle of a batch; then the same answers, none asked twice."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _halt_after(9, tell)
            ask(tmp_path / "killed")
        finally:
            os._exit(1)
    os.close(tell)
    assert os.read(told, 1) == b"!"
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    log = tmp_path / "killed/0.jsonl"
    before = log.read_bytes()
    assert before.count(b"\n") == 9
    log.write_bytes(before + b'{"question_id": "q3", "te')  # as if the machine had died too
    assert ask(tmp_path / "killed") == whole
    assert log.read_bytes().startswith(before)
    assert sorted(lines(tmp_path / "killed")) == sorted(item.id for item in items)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_medium_is_encoded_once_in_all(
    micro: Any, ask: Callable[..., Given], items: list[Item], tmp_path: Path, ranks: int
) -> None:
    """By all ranks together, however its questions fell into batches."""
    model, _ = micro
    seen: list[int] = []
    encode = model.encode_images

    def counted(pixels: Any) -> Any:
        seen.append(len(pixels))
        return encode(pixels)

    single = [item for item in items if len(item.media) < 2]
    many = [Item(f"m{n}", "", f"<image>\nwhat {n}?", "", (f"p{n % 3}.png",)) for n in range(24)]
    model.encode_images = counted
    try:
        for rank in range(ranks):
            ask(tmp_path / "log", Ranks(rank, ranks), [*single, *many], given=Given())
    finally:
        del model.encode_images
    assert sum(seen) == len(media_of([*single, *many]))


def test_missing_and_broken_media_are_reported_and_never_skipped(
    micro: Any, ask: Callable[..., Given], items: list[Item], whole: Given, folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(folder, tmp_path / "copy")
    (folder / "p3.png").unlink()
    (folder / "p4.png").write_bytes(picture(4)[:60])
    given = ask(tmp_path / "log", reader=Reader.of(micro[0].config, folder, "pad"))
    lacking = {item.id for item in items if {"p3.png", "p4.png"} & set(item.media)}
    assert given.problems.keys() == lacking
    assert given.texts.keys() == {item.id for item in items} - lacking
    assert "p3.png: not found" in set(given.problems.values())
    assert str(folder) not in "".join(given.problems.values())
    assert all(given.texts[key] == whole.texts[key] for key in given.texts)
    assert write_answers(items, given, False, tmp_path / "a.jsonl") == len(given.texts)
    assert write_answers(items, given, True, tmp_path / "b.jsonl") == len(items)
    blank = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert {row["question_id"] for row in blank if row["text"] == ""} >= lacking
    assert [row["question_id"] for row in blank] == [item.id for item in items]


def test_nothing_readable_at_all_is_an_error(micro: Any, ask: Callable[..., Given], tmp_path: Path) -> None:
    write_files(tmp_path, {f"p{n}.png": b"not a picture" for n in range(10)})
    with pytest.raises(InputError, match=r"none of the first \d+ media can be read: p\d.png"):
        ask(tmp_path / "log", reader=Reader.of(micro[0].config, tmp_path, "pad"))


def test_blinded_it_sees_the_mean(
    micro: Any, ask: Callable[..., Given], items: list[Item], folder: Path, tmp_path: Path
) -> None:
    model, _ = micro
    reader = Reader.of(model.config, folder, "pad")
    every = media_of(items)
    rows = [model.encode_images(torch.from_numpy(reader(medium))[None])[0] for medium in every]
    for ranks in (3, 1):
        for rank in range(ranks):
            sum_features(model, reader, 0, every, tmp_path / str(ranks), Ranks(rank, ranks))
    means = read_means(model, tmp_path / "1")
    torch.testing.assert_close(means["image"], torch.stack(rows).mean(0))
    assert torch.equal(means["image"], read_means(model, tmp_path / "3")["image"])  # bit-equal
    dark = blindfold(means)
    given = ask(tmp_path / "log", encode=dark, unseen={"q1": "p7.png: not found"})
    assert given.problems == {"q1": "p7.png: not found"}
    assert len(given) == len(items)
    alike = [Item(f"m{n}", "", "<image>\nwhat is it?", "", (f"p{n}.png",)) for n in range(4)]
    blinded = ask(tmp_path / "a", asked=alike, encode=dark, unseen={})
    assert len(set(blinded.texts.values())) == 1
    assert len(set(ask(tmp_path / "b", asked=alike).texts.values())) > 1


class Fatal(Reader):
    """A decoder that takes its process with it."""

    def __call__(self, medium: Any) -> Any:
        if medium[1] == "p5.png":
            os._exit(3)
        return super().__call__(medium)


class Crowd:
    """Stands for the pool of processes: one of them dies of p5.png."""

    workers: ClassVar[list[int]] = []

    def __init__(self, workers: int) -> None:
        self.workers.append(workers)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stream(self, function: Any, media: Any, crashed: Any, window: int, seconds: int) -> Any:
        return (crashed(medium) if medium[1] == "p5.png" else function(medium) for medium in media)


def test_what_kills_a_worker_is_a_missing_medium(
    ask: Callable[..., Given], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_module, "Pool", Crowd)
    monkeypatch.setattr(media_module, "_lone_pool", lambda: Crowd(1))
    given = ask(tmp_path / "log", workers=2)
    assert given.problems
    assert all("p5.png: the process that decoded it died" in text for text in given.problems.values())
    monkeypatch.setattr(media_module, "LIGHT", 0)
    ask(tmp_path / "again", workers=2)
    assert Crowd.workers == [1, 2]  # processes start where there is much to decode


@pytest.mark.slow
def test_workers_decode_and_one_may_die(
    micro: Any,
    ask: Callable[..., Given],
    whole: Given,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(media_module, "LIGHT", 0)
    reader = Fatal.of(micro[0].config, folder, "pad")
    given = ask(tmp_path / "log", reader=reader, workers=2)
    assert given.problems
    assert all("p5.png: the process that decoded it died" in text for text in given.problems.values())
    assert given.texts == {key: text for key, text in whole.texts.items() if key not in given.problems}


def test_a_log_that_is_none(tmp_path: Path) -> None:
    write_lines(tmp_path / "log/0.jsonl", [{"question_id": "a", "text": "x"}, {"id": 3}])
    with pytest.raises(InputError, match="line 2: not an answer"):
        AnswerLog(tmp_path / "log").read()


def test_real_videos(micro: Any, shared: Path, tmp_path: Path) -> None:
    model, tokenizer = micro
    videos = sorted((shared / "media/video").glob("video_*.mp4"))
    reader = Reader.of(model.config, shared / "media/video", "pad")
    asked = [Item(v.stem + w, "", f"<video>\nwhat {w}?", "", (v.name,)) for v in videos for w in WORDS[:3]]
    log = AnswerLog(tmp_path / "log")
    predict(model, tokenizer, asked, partial(encode_windows, model, reader, 0), log, Settings(NEW))
    given = log.read()
    assert len(given.texts) == 6
    pixels = torch.from_numpy(reader(("video", videos[1].name)))
    assert pixels.shape == (4, 3, 16, 16)
    sample = prompt_sample(model, tokenizer, asked[-1].question, [], [pixels])
    assert given.texts[asked[-1].id] == generate(model, tokenizer, [sample], NEW)[0]


def read(name: str, folder: str, workspace: Path, **choices: Any) -> QuestionSet:
    return read_questions(
        name, Evaluate(folders={name: folder}, **choices), workspace, workspace / "unpacked"
    )


def test_questions_of_a_folder_are_found_by_content(tmp_path: Path) -> None:
    """Whatever the files and folders are called; a video may have another suffix than the question says."""
    asked = [{"video_name": f"v{n}", "question_id": f"k{n}", "question": f"what {n}?"} for n in range(3)]
    gold = [{"question_id": f"k{n}", "answer": "dog", "type": 1} for n in range(3)]
    bench = tmp_path / "bench/set"
    write_json(bench / "anything.json", asked)
    write_json(bench / "other.json", gold)
    write_files(
        bench, {"README.md": b"# a set", "all/v0.avi": b"x", "all/v1.mkv": b"x", ".cache/x.json": b"{}"}
    )
    found = read("msvd", "bench/set", tmp_path)
    assert [item.media for item in found.items] == [
        ("bench/set/all/v0.avi",),
        ("bench/set/all/v1.mkv",),
        ("bench/set/all/v2.mp4",),
    ]
    assert {path.name for path in found.gold} == {"anything.json", "other.json"}
    assert found.items[0].fields == {"id": "k0", "question": "what 0?", "answer": "dog"}
    assert (found.items[0].answer, found.items[0].kind) == ("dog", "1")
    assert found.items[0].seen == (("video", "bench/set/all/v0.avi"),)
    assert [item.id for item in read("msvd", "bench/set", tmp_path, limit=2).items] == ["k0", "k1"]
    elsewhere = read("msvd", str(bench), tmp_path / "empty")
    assert elsewhere.items[0].media == (str(bench / "all/v0.avi"),)
    sizes = {medium: 1 for item in found.items for medium in item.seen}
    key = found.key(lambda medium: sizes[medium])
    sizes["video", "bench/set/all/v2.mp4"] = 2
    assert found.key(lambda medium: sizes[medium]) != key  # a medium that came later is a new question


@pytest.mark.parametrize(
    ("rows", "files", "says"),
    [
        ([], {}, "no question files"),
        ([("a", "x.png", "q")], {}, r"none of the 1 media .* is there \(x.png, ..\)"),
        ([("a", "x.png", "q"), ("a", "x.png", "r")], {"x.png": b"1"}, "question 'a' comes twice"),
        ([("a", "x.png", "is <image> a word?")], {"x.png": b"1"}, "question 'a': 2 marks"),
    ],
)
def test_mistakes_in_a_folder(
    tmp_path: Path, rows: list[tuple[str, str, str]], files: dict[str, bytes], says: str
) -> None:
    folder = write_files(tmp_path / "set", {"notes.md": b"#", **files})
    if rows:
        asked = [
            {"question_id": key, "image": image, "text": text, "category": "c"} for key, image, text in rows
        ]
        write_lines(folder / "q.jsonl", asked)
    with pytest.raises(InputError, match=says):
        read("gqa", "set", tmp_path)


def test_no_folder_and_no_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set evaluate.folders.gqa to the folder"):
        read_questions("gqa", Evaluate(), tmp_path, tmp_path / "unpacked")
    with pytest.raises(InputError, match=r"evaluate.folders.gqa: .*: no such folder"):
        read("gqa", "nowhere", tmp_path)
