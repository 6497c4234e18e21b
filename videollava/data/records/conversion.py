"""Records in and out of LLaVA's JSON format, as people really write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from videollava.data.archives.names import clean_name
from videollava.data.records.content import PartError, join_parts, media_of_parts
from videollava.data.records.endings import MEDIA_ENDINGS
from videollava.data.records.gold import read_answers, read_choices, read_split
from videollava.data.records.keys import hint, nearest
from videollava.data.records.marks import KINDS, MediumKind, find_marks, likenesses, mark, word
from videollava.data.records.record import Medium, Record, Role, Turn
from videollava.data.records.rejected import RecordError

__all__ = [
    "FIELDS",
    "KIND_OF",
    "ROLES",
    "TURNS",
    "all_paths",
    "content_of",
    "conversation_of",
    "from_llava",
    "to_llava",
]

# Keys that people write for the same thing; the first that holds something counts.
FIELDS: dict[MediumKind, tuple[str, ...]] = {
    kind: tuple(f"{kind}{end}" for end in ("", "s", "_path", "_paths", "_file", "_files")) for kind in KINDS
}
KIND_OF = {field: kind for kind, fields in FIELDS.items() for field in fields}
LONGEST_ID = 1000
TURNS = ("conversations", "conversation", "messages")
ROLES: dict[str, Role] = {
    **dict.fromkeys(("human", "user"), "human"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt"), "gpt"),
}
# What tables and other languages write where there is nothing.
NOTHING = {"", "none", "null", "nan", "n/a", "undefined"}
# In names of fields of others that hold one.
MEDIA_NAMES = (
    "image",
    "img",
    "picture",
    "photo",
    "video",
    "clip",
    "audio",
    "sound",
    "depth",
    "thermal",
    "media",
    "medium",
)


def from_llava(item: Any, source: str, where: str = "", rename: Callable[[str], str] = clean_name) -> Record:
    """Check one item of LLaVA's format and turn it into a Record.

    Args:
        item: `{"id", "image": path or [paths], "video": ..., "conversations": [{"from", "value"}]}`, and "kind",
            "split", "answers", "choices" (gold.py) if they are there; also with user and assistant, role and
            content, messages, and images, video_path and the like. A path that is empty, null or "None" is none. A
            turn's content may be a list of parts (content.py).
        source: name of the source in params.yaml.
        where: file and place, for the error's text.
        rename: from a path as written to the name that its member should have.

    Raises:
        RecordError: (an InputError) names place, record, field and remedy.
    """
    if not isinstance(item, Mapping):
        raise RecordError("malformed record", f"{where or source}: not an object but {type(item).__name__}")
    name = _id(item.get("id"), where or source)
    place = f"{where or source}: record {name!r}"
    item = _without_parts(item, place)
    named = all_paths(item, place)
    paths = {kind: [rename(path) for path in named.get(kind, ())] for kind in KINDS}
    turns = _turns(_said_in(item, place), place, with_media=any(paths.values()))
    media = _in_order(turns, paths, item, place)
    kind = item.get("kind", "")
    if not isinstance(kind, str):
        raise RecordError("malformed record", f"{place}: field kind: must be text, not {type(kind).__name__}")
    _check_text(name, f"{where or source}: field id")
    _check_text(kind, f"{place}: field kind")
    return Record(
        *(name, source, turns, media, kind),
        split=read_split(item.get("split"), place),
        answers=read_answers(item.get("answers"), place),
        choices=read_choices(item.get("choices"), place),
    )


def to_llava(record: Record) -> dict[str, Any]:
    """The same record in LLaVA's format; one medium of a kind is a path, several are a list."""
    item: dict[str, Any] = {"id": record.id}
    for kind in KINDS:
        paths = [medium.path for medium in record.media if medium.kind == kind]
        if paths:
            item[kind] = paths[0] if len(paths) == 1 else paths
    item["conversations"] = [{"from": turn.role, "value": turn.text} for turn in record.turns]
    said = {"kind": record.kind, "split": record.split}
    listed = {"answers": list(record.answers), "choices": list(record.choices)}
    return {**item, **{name: value for name, value in {**said, **listed}.items() if value}}


def _id(raw: Any, place: str) -> str:
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)  # a column of numbers with a gap comes out of tables so
    if isinstance(raw, bool) or not isinstance(raw, str | int) or raw == "":
        raise RecordError("malformed record", f"{place}: field id: must be text or a number; give it one")
    name = str(raw)
    if len(name) > LONGEST_ID:
        raise RecordError(
            "malformed record",
            f"{place}: field id: has {len(name)} characters, and {LONGEST_ID} are the most",
        )
    return name


def _without_parts(item: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """The item with lists of parts as texts with marks, and with the media that they name in its fields."""
    turns = conversation_of(item)
    if not isinstance(turns, list) or not any(isinstance(content_of(turn), list) for turn in turns):
        return item
    plain = dict(item)
    try:
        media = media_of_parts(map(content_of, turns))
        texts = [join_parts(content_of(turn), with_media=bool(media)) for turn in turns]
    except PartError as error:
        raise RecordError("malformed turn", f"{place}: field conversations: {error}") from error
    for kind, named in media.items():
        paths = [path for path in named if path is not None]
        if not paths and not any(field in item for field in FIELDS[kind]):
            raise RecordError(
                "marks and media differ",
                f"{place}: {len(named)} parts are of kind {kind} and nothing names a file; add a field {kind}",
            )
        if paths and len(paths) < len(named):
            raise RecordError(
                "malformed turn",
                f"{place}: {len(named)} parts are of kind {kind} and {len(paths)} of them name a file",
            )
        if paths:
            # Beside another field of the kind: _paths compares them.
            plain[next((field for field in FIELDS[kind] if field not in item), kind)] = paths
    said = zip(turns, texts, strict=True)
    turns = [{**turn, "value": text} if isinstance(turn, Mapping) else turn for turn, text in said]
    return {**{name: plain[name] for name in plain if name not in TURNS}, TURNS[0]: turns}


def content_of(turn: Any) -> Any:
    """What a turn says, under either name; None where it is no turn."""
    return turn.get("value", turn.get("content")) if isinstance(turn, dict) else None


def conversation_of(item: Mapping[str, Any]) -> Any:
    """The turns of an item, under any of their names; None where it has none."""
    return next((item[name] for name in TURNS if item.get(name) is not None), None)


def _said_in(item: Mapping[str, Any], place: str) -> Any:
    turns = conversation_of(item)
    if turns is None:
        raise RecordError(
            "no conversation",
            f"{place}: field conversations: must be a list of at least two turns{hint(item, TURNS)}",
        )
    return turns


def _turns(raw: Any, place: str, *, with_media: bool) -> tuple[Turn, ...]:
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
        raise RecordError(
            "no conversation", f"{place}: field conversations: must be a list of at least two turns"
        )
    turns = tuple(
        _turn(entry, f"{place}: field conversations[{index}]", with_media=with_media)
        for index, entry in enumerate(raw)
    )
    # A greeting before the first question is legal (the templates leave it out).
    asked = turns[1:] if turns[0].role == "gpt" else turns
    if (
        not asked
        or len(asked) % 2
        or any(turn.role != ("human", "gpt")[i % 2] for i, turn in enumerate(asked))
    ):
        roles = ", ".join(turn.role for turn in turns[:6])
        raise RecordError(
            "turns out of order",
            f"{place}: field conversations: turns must alternate human, gpt and end with gpt, not: {roles}",
        )
    return turns


def _turn(entry: Any, place: str, *, with_media: bool) -> Turn:
    said, text = (
        (entry.get("from", entry.get("role")), content_of(entry)) if isinstance(entry, dict) else (None, None)
    )
    role = ROLES.get(said.strip().lower()) if isinstance(said, str) else None
    if role is None or not isinstance(text, str):
        raise RecordError(
            "malformed turn",
            f'{place}: must be {{"from": "human" or "gpt", "value": text}}{_turn_hint(entry, said)}; '
            "correct or drop the record",
        )
    if role == "gpt" and not text.strip():
        raise RecordError("empty answer", f"{place}: the answer is empty; fill it in or drop the record")
    _check_text(text, place)
    if role == "gpt" and with_media and (marks := find_marks(text)):
        raise RecordError(
            "mark in an answer",
            f"{place}: {mark(marks[0])} in an answer, and media belong in human turns; move or remove it, "
            f"or write {word(marks[0])} for the mere word",
        )
    return Turn(role, text)


def _check_text(text: str, place: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RecordError(
                "invalid text", f"{place}: half a surrogate pair; save the text as UTF-8 again"
            ) from error


def _turn_hint(entry: Any, said: Any) -> str:
    if isinstance(said, str) and said.strip().lower() == "system":
        return ", and the templates have a system prompt of their own (format: messages takes it into the question)"
    return hint(entry, ("from", "value", "role", "content")) if isinstance(entry, Mapping) else ""


def all_paths(item: Mapping[str, Any], place: str) -> dict[MediumKind, list[str]]:
    """Paths of the media of each kind that a field is there for, as the item's fields name them."""
    kinds = {KIND_OF[field] for field in KIND_OF.keys() & item.keys()}
    return {kind: _paths(item, kind, place) for kind in KINDS if kind in kinds}


def _paths(item: Mapping[str, Any], kind: MediumKind, place: str) -> list[str]:
    """Those of one kind; RecordError where two fields differ."""
    found = {
        field: _listed(item[field], f"{place}: field {field}") for field in FIELDS[kind] if field in item
    }
    given = [field for field, paths in found.items() if paths]
    if len({tuple(found[field]) for field in given}) > 1:
        raise RecordError(
            "malformed record", f"{place}: fields {' and '.join(given)} name different media; keep one"
        )
    return found[given[0]] if given else []


def _listed(raw: Any, place: str) -> list[str]:
    """Paths that a field holds; nothing in all its forms is none."""
    if isinstance(raw, str) and not raw.startswith("data:"):  # what nearly all are
        path = raw.strip("\r\n\t")
        _check_text(path, place)
        return [] if _is_nothing(path) else [path]
    values = list(raw) if isinstance(raw, list | tuple) else [raw]
    if any(_has_bytes(value) for value in values):
        raise RecordError(
            "malformed record", f"{place}: holds bytes; put them into an archive and name its member"
        )
    values = [value["path"] if isinstance(value, Mapping) and "path" in value else value for value in values]
    values = [value.strip("\r\n\t") if isinstance(value, str) else value for value in values]
    paths = [value for value in values if not _is_nothing(value)]
    if not all(isinstance(path, str) for path in paths):
        raise RecordError("malformed record", f"{place}: must be a path or a list of paths")
    for path in paths:
        _check_text(path, place)
    return paths


def _has_bytes(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value.get("bytes")) and not value.get("path")
    return isinstance(value, str) and value.startswith("data:")


def _is_nothing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in NOTHING
    return value is None or (isinstance(value, float) and value != value)


def _in_order(
    turns: tuple[Turn, ...], paths: Mapping[MediumKind, list[str]], item: Mapping[str, Any], place: str
) -> tuple[Medium, ...]:
    """Media in the order of their marks. Without media there are no marks, unless one has plainly been lost."""
    asked = [turn.text for turn in turns if turn.role == "human"]
    marks = [found for text in asked for found in find_marks(text)]
    if not any(paths.values()):
        _check_none_lost(item, marks, place)
        return ()
    for kind, named in paths.items():
        count = marks.count(kind)
        if count != len(named):
            near = [found for text in asked for found in likenesses(text) if kind in found.lower()]
            raise RecordError(
                "marks and media differ",
                f"{place}: field {kind}: {len(named)} paths but {count} {mark(kind)} marks in its human turns"
                f"{f' ({near[0]} is none)' if near else ''}; write one mark for each, "
                f"and {word(kind)} where only the word is meant",
            )
    rest = {kind: iter(named) for kind, named in paths.items()}
    return tuple(Medium(kind, next(rest[kind])) for kind in marks)


def _check_none_lost(item: Mapping[str, Any], marks: Sequence[MediumKind], place: str) -> None:
    """A mark where no medium is named is a word, but not beside a field that has a medium or should have one.

    Nor is a record about text alone that names a medium where nobody looks.
    """
    for kind in marks:
        if any(field in item for field in FIELDS[kind]):
            raise RecordError(
                "marks and media differ",
                f"{place}: field {kind}: 0 paths but {marks.count(kind)} {mark(kind)} marks in its human turns; "
                "name the medium, or leave the field out where only the word is meant",
            )
    for field, value in item.items():
        path = "" if field in KIND_OF else _medium_in(value)
        near = nearest(field, KIND_OF) if path else ""
        if path and (marks or near or any(name in field.lower() for name in MEDIA_NAMES)):
            meant = near or (marks[0] if marks else "image or video")
            raise RecordError(
                "unknown medium field",
                f"{place}: field {field[:80]}: holds {path[:80]!r} and no field that is known names a medium; "
                f"rename it to {meant}{'' if marks else ', and mark its place'}, or leave it out",
            )


def _medium_in(value: Any) -> str:
    """The first path to a medium in a value, a list or an object; "" for none."""
    held = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else (value,)
    paths = (one for one in held if isinstance(one, str) and one.lower().endswith(MEDIA_ENDINGS))
    return next(paths, "")
