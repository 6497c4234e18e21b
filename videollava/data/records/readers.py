"""From a fetched source to records: a reader for each format yields (split, Record) or Rejected, in order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videollava.data.acquire.addresses import file_name, is_address
from videollava.data.archives.listing import Member, open_member
from videollava.data.archives.names import clean_name, renaming
from videollava.data.records.items import is_annotations, read_items
from videollava.data.records.marks import MediumKind, mark
from videollava.data.records.record import Medium, Record, RecordError, Turn, from_llava
from videollava.data.toy.scenes import COLORS, SHAPES
from videollava.errors import InputError
from videollava.params import Source

__all__ = ["Rejected", "known_facts", "read_records"]

Catalogue = Mapping[str, Member]
Entry = "tuple[str, Record] | Rejected"

TURNS = {"image": 12, "video": 10}  # questions of one conversation, at most

# Stage-1 requests. The plain template leaves them out, as the original does.
REQUESTS: dict[MediumKind, tuple[str, ...]] = {
    "image": (
        "Say in a few words what the picture shows.",
        "What can be seen here?",
        "Give a short caption for this image.",
        "Describe this picture briefly.",
        "What is shown in the image? Keep it short.",
    ),
    "video": (
        "Say in a few words what happens in the video.",
        "What can be seen happening here?",
        "Give a short caption for this video.",
        "Describe this clip briefly.",
        "What does the video show? Keep it short.",
    ),
}


@dataclass(frozen=True)
class Rejected:
    """An entry of a source that is not a record, and why."""

    source: str
    file: str
    record: str
    reason: str
    detail: str


def read_records(
    source: Source, folder: Path, catalogue: Catalogue
) -> Iterator[tuple[str, Record] | Rejected]:
    """Every record of a source with its split, and every entry that isn't one.

    Args:
        source: its section of params.yaml.
        folder: data/raw/<source>.
        catalogue: the members of its archives by name.
    """
    readers: dict[str, Callable[..., Iterator[tuple[str, Record] | Rejected]]] = {
        "easy-vqa": _read_easy_vqa,
        "clips": _read_clips,
        "llava": _read_llava,
    }
    return readers[source.format](source, folder, catalogue)


def _read_easy_vqa(
    source: Source, folder: Path, catalogue: Catalogue
) -> Iterator[tuple[str, Record] | Rejected]:
    for split in ("train", "test"):
        file = f"{split}/questions.json"
        if file not in catalogue:
            raise InputError(f"{folder}: no member {file} in its archives; run `videollava fetch` again")
        asked: dict[int, list[tuple[str, str]]] = {}
        with open_member(catalogue[file]) as stream:
            for index, entry in enumerate(read_items(stream, file)):
                try:
                    question, answer, image = _easy_question(entry, f"{file}: question {index}")
                except RecordError as error:
                    yield Rejected(source.name, file, str(index), error.reason, str(error))
                    continue
                asked.setdefault(image, []).append((question, answer))
                if split == "test":
                    medium = Medium("image", f"test/images/{image}.png")
                    kind = _easy_kind(answer)
                    yield (
                        "test-easy_vqa",
                        _conversation(f"test-{index}", source, medium, [(question, answer)], kind),
                    )
        if split == "train":
            for image, pairs in sorted(asked.items()):
                yield from _easy_training(source, image, pairs)


def _easy_question(entry: Any, place: str) -> tuple[str, str, int]:
    match entry:
        case [str(question), str(answer), int(image)] if question.strip() and _easy_kind(answer):
            return question, answer, image
    raise RecordError(
        "malformed record", f"{place}: must be [question, one of easy-VQA's 13 answers, image number]"
    )


def _easy_kind(answer: str) -> str:
    kinds = {
        "yes": "yes_no",
        "no": "yes_no",
        **dict.fromkeys(COLORS, "color"),
        **dict.fromkeys(SHAPES, "shape"),
    }
    return kinds.get(answer, "")


def _easy_training(source: Source, image: int, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, Record]]:
    name, medium = f"train-{image}", Medium("image", f"train/images/{image}.png")
    color, shape = known_facts(pairs)
    if color and shape:
        yield "align", _caption(name, source, medium, f"a {color} {shape}")
    if color or shape:
        yield (
            "pretrain",
            _caption(name, source, medium, f"a {color or ''} {shape or 'shape'}".replace("  ", " ")),
        )
    yield from _conversations(name, source, medium, pairs)


def known_facts(pairs: Sequence[tuple[str, str]]) -> tuple[str | None, str | None]:
    """Colour and shape that an image's questions and answers tell or leave as the only possibility."""
    colors, shapes = set(COLORS), set(SHAPES)
    for question, answer in pairs:
        words = set(question.rstrip("?").split())
        said = words | {answer} if answer not in ("yes", "no") else words
        present = answer not in ("yes", "no") or (answer == "yes") != bool(words & {"no", "not"})
        for left, every in ((colors, COLORS), (shapes, SHAPES)):
            named = said & set(every)
            if named and present:
                left &= named
            else:
                left -= named
    return (
        next(iter(colors)) if len(colors) == 1 else None,
        next(iter(shapes)) if len(shapes) == 1 else None,
    )


def _read_clips(
    source: Source, folder: Path, catalogue: Catalogue
) -> Iterator[tuple[str, Record] | Rejected]:
    for split in ("train", "test"):
        file = folder / f"{split}.jsonl"
        if not file.is_file():
            raise InputError(f"{file}: not found; run `videollava fetch` again")
        with file.open("rb") as stream:
            for index, entry in enumerate(read_items(stream, str(file))):
                place = f"{file}: line {index + 1}"
                try:
                    yield from _clip(source, split, entry, place)
                except RecordError as error:
                    yield Rejected(source.name, file.name, f"line {index + 1}", error.reason, str(error))


def _clip(source: Source, split: str, entry: Any, place: str) -> Iterator[tuple[str, Record]]:
    if isinstance(entry, RecordError):
        raise entry
    match entry:
        case {
            "id": str(name),
            "video": str(path),
            "captions": [str(first), *more],
            "questions": list(questions),
        }:
            pairs = [(question, answer) for question, answer, _ in map(_clip_question, questions)]
            if not pairs or not all(isinstance(text, str) for text in more):
                raise RecordError(
                    "malformed record", f"{place}: captions must be texts, questions must not be empty"
                )
        case _:
            raise RecordError("malformed record", f"{place}: must have id, video, captions and questions")
    medium = Medium("video", path)
    if split == "test":
        for number, (question, answer, kind) in enumerate(questions):
            item = f"{name}-{number}"
            yield "test-toy_video_qa", _conversation(item, source, medium, [(question, answer)], kind)
        return
    yield "align", _caption(name, source, medium, first)
    match entry.get("still"):
        case {"image": str(path), "caption": str(text)}:
            yield "align", _caption(f"{name}-still", source, Medium("image", path), text)
    yield "pretrain", _caption(name, source, medium, _random(source, name).choice([first, *more]))
    yield from _conversations(name, source, medium, pairs)


def _clip_question(raw: Any) -> tuple[str, str, str]:
    match raw:
        case [str(question), str(answer), str(kind)]:
            return question, answer, kind
    raise RecordError("malformed record", f"a question must be [question, answer, kind], not {raw!r}")


def _read_llava(
    source: Source, folder: Path, catalogue: Catalogue
) -> Iterator[tuple[str, Record] | Rejected]:
    if not source.use:
        raise InputError(
            f"params.yaml: fetch.sources: {source.name}: format llava needs `use`: "
            "align, pretrain or finetune"
        )
    name, stream = _annotations(source, folder, catalogue)
    rename = renaming(source.strip, source.prefix)
    with stream:
        for index, entry in enumerate(read_items(stream, name)):
            try:
                yield source.use, _llava_record(source, entry, index, name, rename)
            except RecordError as error:
                yield Rejected(source.name, name, _name_of(entry, index), error.reason, str(error))


def _llava_record(source: Source, entry: Any, index: int, file: str, rename: Callable[[str], str]) -> Record:
    if isinstance(entry, RecordError):
        raise entry
    if isinstance(entry, dict) and entry.get("id") in (None, ""):
        entry["id"] = str(index)
    record = from_llava(entry, source.name, f"{file}: entry {index}", rename)
    if source.use == "align" and (len(record.media), len(record.turns)) != (1, 2):
        raise RecordError(
            "not a caption", f"{file}: record {record.id!r}: alignment takes one medium and one caption"
        )
    return record


def _name_of(entry: Any, index: int) -> str:
    return str(entry.get("id", index)) if isinstance(entry, dict) else str(index)


def _annotations(source: Source, folder: Path, catalogue: Catalogue) -> tuple[str, Any]:
    """The annotation file: as named, or the only .json or .jsonl (also compressed) beside or inside the archives."""
    where = f"params.yaml: fetch.sources: {source.name}"
    wanted = source.annotations
    wanted = file_name(wanted, where) if is_address(wanted) else clean_name(wanted)
    beside = {file.name for file in folder.iterdir()} - {"source.json"}
    names = [wanted] if wanted else [n for n in sorted({*beside, *catalogue}) if is_annotations(n)]
    if len(names) != 1 or names[0] not in {*beside, *catalogue}:
        raise InputError(
            f"{where}: annotations: {wanted or 'not named'}; "
            f"name one of: {', '.join(n for n in names[:5] if n != wanted) or 'no .json or .jsonl was found'}"
        )
    if names[0] in beside:
        return names[0], (folder / names[0]).open("rb")
    return names[0], open_member(catalogue[names[0]])


def _caption(name: str, source: Source, medium: Medium, text: str) -> Record:
    request = _random(source, f"{name}-request").choice(REQUESTS[medium.kind])
    return _conversation(name, source, medium, [(request, text)])


def _conversations(
    name: str, source: Source, medium: Medium, pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, Record]]:
    """A medium's questions, shuffled, in as few conversations as TURNS allows, of even length."""
    order = list(pairs)
    _random(source, f"{name}-order").shuffle(order)
    count = -(-len(order) // TURNS[medium.kind])
    for part in range(count):
        chosen = order[part * len(order) // count : (part + 1) * len(order) // count]
        yield "finetune", _conversation(f"{name}-{part}", source, medium, chosen)


def _conversation(
    name: str, source: Source, medium: Medium, pairs: Sequence[tuple[str, str]], kind: str = ""
) -> Record:
    turns: list[Turn] = []
    for question, answer in pairs:
        turns += [
            Turn("human", question if turns else f"{mark(medium.kind)}\n{question}"),
            Turn("gpt", answer),
        ]
    return Record(name, source.name, tuple(turns), (medium,), kind)


def _random(source: Source, name: str) -> random.Random:
    return random.Random(f"{source.name} {source.seed} {name}")
