"""The questions of an evaluation: of a split of data/index, or of a benchmark's own files and media.

A benchmark's folder (params `evaluate.folders`) holds its question and gold files, JSON, JSON lines or tables,
and its media:

    msvd/test_q.json  msvd/test_a.json  msvd/videos/*.avi
    pope/llava_pope_test.jsonl  pope/coco/*.json  pope/val2014/*.jpg

Of a fetched source, data/raw/NAME, the folder is what its archives hold. Files are found by content, and the media
folder is the one that has the first questions' media: the folder itself or any below it. MMBench's images lie inside
its table and are written out.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from videollava.data.acquire.unpacked import unpacked_folder
from videollava.data.prepare.golds import gold_entries
from videollava.data.prepare.tables import load_split
from videollava.embedding.zero_shot.sets import APART, SETS
from videollava.errors import InputError
from videollava.evaluate import benchmarks
from videollava.evaluate.benchmarks import Benchmark, Question, own, tiny
from videollava.evaluate.benchmarks.video_qa import SUFFIXES
from videollava.params import Evaluate

__all__ = ["Item", "Medium", "QuestionSet", "read_questions", "read_split"]

Medium = tuple[str, int | str]  # kind; number of data/index, or path
MARK = re.compile("<(image|video)>")
PROBED = 20  # questions by whose media the media folder is found


@dataclass(frozen=True)
class Item:
    """One question: the human turn with a mark for each of `media` in order (numbers of data/index, or
    paths), the gold's text where it is known, and what the answer's line has beside id and text.
    """

    id: str
    kind: str
    question: str
    answer: str
    media: tuple[int | str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seen(self) -> tuple[Medium, ...]:
        """Its media with their kinds, which the marks tell."""
        return tuple(zip(MARK.findall(self.question), self.media, strict=True))


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one benchmark. `gold` are the files that its score takes; none for a prepared split."""

    benchmark: Benchmark
    items: tuple[Item, ...]
    gold: tuple[Path, ...] = ()
    limit: int = 0

    @property
    def name(self) -> str:
        """The benchmark's id."""
        return self.benchmark.id

    @property
    def of_files(self) -> bool:
        """Whether the questions come from the benchmark's own files."""
        return bool(self.gold)

    def key(self, mark: Callable[[Medium], object]) -> str:
        """Sixteen hex digits that change with the questions, and with the mark of a medium."""
        told = hashlib.sha256()
        marks = {
            medium: mark(medium) for medium in dict.fromkeys(m for item in self.items for m in item.seen)
        }
        for item in self.items:
            told.update(json.dumps([item.id, item.question, [(m, marks[m]) for m in item.seen]]).encode())
        return told.hexdigest()[:16]


def read_questions(name: str, choices: Evaluate, workspace: Path, unpacked: Path) -> QuestionSet:
    """The questions of a benchmark, in their files' order; media that lie inside files go to `unpacked`.

    InputError names the file and record that is wrong, and says what to do where there are no questions or
    none of their media.
    """
    split = workspace / f"data/index/splits/test-{name}.arrow"
    if name not in benchmarks.names() and split.is_file() and name not in choices.folders:
        found = _read_own(name, choices.metrics.get(name, ""), workspace / "data/index")
        items = found.items[: choices.limit] if choices.limit else found.items
        _check(name, items)
        return QuestionSet(found.benchmark, items, limit=choices.limit)
    try:
        one = benchmarks.get(name)
    except InputError as error:
        if name in SETS:
            raise InputError(
                f"{name}: encoders by themselves are asked it: name it in evaluate.zero_shot (--benchmarks "
                f"{name}{APART})"
            ) from error
        raise InputError(
            f"{error}; or a source's own test: data/index has no split test-{name}, set index.sources.{name}.test and "
            "run `videollava index`"
        ) from error
    if name in choices.folders:
        folder = unpacked_folder(choices.folders[name], workspace)
        found = _read_folder(one, folder, unpacked, workspace)
    elif split.is_file():
        if one.score is not tiny.score:
            raise InputError(
                f"{name}: a source's test has the name of a benchmark; rename the source in params.yaml"
            )
        found = QuestionSet(one, tuple(read_split(workspace / "data/index", name)))
    else:
        raise InputError(
            f"{name}: the prepared data have no split test-{name}; set evaluate.folders.{name} to the folder "
            "with its question files and media"
        )
    items = found.items[: choices.limit] if choices.limit else found.items
    _check(name, items)
    return QuestionSet(one, items, found.gold, choices.limit)


def _read_own(name: str, metric: str, prepared: Path) -> QuestionSet:
    """The test of a source's own."""
    rows = own.own_rows(load_split(prepared, f"test-{name}"))
    one = own.own_benchmark(name, own.choose_metric(name, metric, rows))
    apart = ("question_id", "media")
    items = (
        Item(
            row["question_id"],
            row["kind"],
            row["question"],
            row["answer"],
            tuple(row["media"]),
            {key: value for key, value in row.items() if key not in apart},
        )
        for row in rows
    )
    return QuestionSet(one, tuple(items))


def read_split(prepared: Path, name: str) -> Iterator[Item]:
    """The questions of `test-<name>`, in the order of the index."""
    table = load_split(prepared, f"test-{name}").select(["id", "kind", "conversations", "media"])
    for row in table.to_pylist():
        turns = json.loads(row["conversations"])
        question, answer = turns[0][1], turns[-1][1]
        fields = {"kind": row["kind"], "question": question, "answer": answer}
        yield Item(row["id"], row["kind"], question, answer, tuple(row["media"]), fields)


def _read_folder(one: Benchmark, folder: Path, unpacked: Path, workspace: Path) -> QuestionSet:
    if not folder.is_dir():
        raise InputError(f"evaluate.folders.{one.id}: {folder}: no such folder")
    gold = tuple(gold_entries(folder))
    if not gold:
        raise InputError(f"{folder}: no question files (JSON, JSON lines or tables) in it")
    names = [name for question in one.questions(gold) for name in question.media]
    media = _media_folder(folder, names[:PROBED])
    if media is None and one.unpack is not None:
        media = _unpack(one.unpack, gold, unpacked)
    questions = list(one.questions(gold, media or folder))
    paths = chain.from_iterable(question.media for question in questions)
    if names and not any(Path(path).is_file() for path in paths):
        raise InputError(
            f"{folder}: none of the {len(set(names)):,} media that its questions name is there "
            f"({names[0]}, ..); put them into a folder in it"
        )
    return QuestionSet(one, tuple(_item(question, workspace) for question in questions), gold)


def _media_folder(folder: Path, names: Sequence[str]) -> Path | None:
    """Of the folder and those below it, the one that has most of `names`; None where none has any."""
    best, most = None, 0
    below = sorted(path for path in folder.rglob("*") if path.is_dir())
    for place in (folder, *below):
        found = sum(_is_there(place / name) for name in names)
        if found > most:
            best, most = place, found
    return best


def _unpack(unpack: Callable[[Sequence[Path], Path], int], gold: Sequence[Path], folder: Path) -> Path | None:
    """The folder with the media, None where the files have none; written aside and renamed."""
    if folder.is_dir():
        return folder
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    if not unpack(gold, aside):
        return None
    aside.rename(folder)
    return folder


def _is_there(path: Path) -> bool:
    """A video is named without its suffix in some question files: any will do."""
    return path.is_file() or any(path.with_suffix(suffix).is_file() for suffix in SUFFIXES)


def _item(question: Question, workspace: Path) -> Item:
    media = tuple(_relative(Path(path), workspace) for path in question.media)
    gold = str(question.fields.get("answer", ""))
    return Item(question.id, question.kind, question.prompt, gold, media, question.fields)


def _relative(path: Path, workspace: Path) -> str:
    return str(path.relative_to(workspace) if path.is_relative_to(workspace) else path)


def _check(name: str, items: Sequence[Item]) -> None:
    if not items:
        raise InputError(f"{name}: no questions")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise InputError(
                f"{name}: question {item.id!r} comes twice; give every question an id of its own"
            )
        seen.add(item.id)
        marks = len(MARK.findall(item.question))
        if marks != len(item.media):
            raise InputError(
                f"{name}: question {item.id!r}: {marks} marks of media in its text for {len(item.media)} media; "
                "write <image> or <video> once for each"
            )
