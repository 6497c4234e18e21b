"""WebDataset shards as they are: tars of a medium beside a .json or a text of the same name up to its first dot."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from videollava.data.archives.listing import DAMAGED, Member, read_member
from videollava.data.records.conversion import FIELDS, all_paths, from_llava
from videollava.data.records.endings import kind_of_file
from videollava.data.records.formats.format import Catalogue, Context, Entry, Item
from videollava.data.records.formats.table import ITEM_FORMATS
from videollava.data.records.items import LONGEST, is_annotations
from videollava.data.records.marks import KINDS, MediumKind
from videollava.data.records.rejected import Notes, RecordError, Rejected
from videollava.errors import InputError
from videollava.params import Source

__all__ = ["TEXTS", "has_pairs", "read_webdataset"]

TEXTS = (".txt", ".text", ".caption")
LOOKED_AT = 64  # members that show whether archives hold pairs


def has_pairs(folder: Path, catalogue: Catalogue) -> bool:
    """Whether a source's archives hold pairs: media with a text of the same name beside each, and no list outside."""
    if any(is_annotations(file.name) and file.name not in catalogue for file in folder.iterdir()):
        return False
    names = list(islice(catalogue, LOOKED_AT))
    keys: defaultdict[str, set[bool]] = defaultdict(set)
    for name in names:
        keys[_key(name)].add(kind_of_file(name) is not None)
    if any(is_annotations(name) and keys[_key(name)] == {False} for name in names):
        return False
    pairs = sum(len(held) == 2 for held in keys.values())
    return pairs > 0 and pairs >= len(keys) // 2


def read_webdataset(source: Source, folder: Path, catalogue: Catalogue, notes: Notes) -> Iterator[Entry]:
    """A record of each pair, in the order of the shards; what has no medium or no text is rejected."""
    if not source.use:
        raise InputError(
            f"params.yaml: sources.{source.name}: format {source.format} needs `use`: align, pretrain or finetune"
        )
    samples: dict[tuple[str, str], list[Member]] = {}
    for member in catalogue.values():
        samples.setdefault((_shard(member), _key(member.name)), []).append(member)
    context = Context(notes=notes)
    for (archive, key), members in samples.items():
        file = Path(archive).name if archive else folder.name
        place = f"{file}: sample {key!r}"
        try:
            item = _item(key, members, place, context)
            yield source.use, from_llava(item, source.name, place, rename=str)
        except RecordError as error:
            yield Rejected(source.name, file, key, error.reason, str(error))
        except RecursionError:
            yield Rejected(
                source.name, file, key, "malformed record", f"{place}: lists in lists, too many to read"
            )


def _shard(member: Member) -> str:
    """The archive of a member; "" of a file that lies in a folder by itself."""
    loose = PurePosixPath(member.name).name == Path(member.archive).name
    return "" if loose else member.archive


def _key(name: str) -> str:
    """The name up to the first dot of its last part."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _item(key: str, members: Sequence[Member], place: str, context: Context) -> Item:
    """One sample as an item of LLaVA's format."""
    media = {member.name: kind for member in members if (kind := kind_of_file(member.name))}
    said, text = _texts(members, place)
    for member in members:
        ending = PurePosixPath(member.name).suffix
        if member.name not in media and ending not in (".json", *TEXTS):
            told = ending if 1 < len(ending) < 9 else "of other endings"
            context.notes[f"members {told} of samples were left out"] += 1
    item = {"id": key, **{name: value for name, value in said.items() if name not in ("id", "key")}}
    form = next((form for form in ITEM_FORMATS.values() if form.fits(item)), None)
    named = _named(item, media, place)
    if form is None or (text and form.name == "jsonl" and "question" not in item):
        if not media:
            raise RecordError("missing medium", f"{place}: no medium beside it in the shard")
        caption = text or item.get("caption") or item.get("text")
        if not caption:
            raise RecordError(
                "no conversation", f"{place}: no .txt beside the medium, and nothing asked in its .json"
            )
        item, form = {"id": key, "caption": caption, "split": item.get("split")}, ITEM_FORMATS["jsonl"]
    return form.as_llava({**item, **named}, place, context)


def _texts(members: Sequence[Member], place: str) -> tuple[dict[str, Any], str]:
    """What a sample's .json says, and its text."""
    said: dict[str, Any] = {}
    text = ""
    for member in members:
        if member.name.endswith(".json"):
            try:
                found = json.loads(_read(member, place))
            except (ValueError, RecursionError) as error:
                raise RecordError("malformed record", f"{place}: {member.name}: not JSON: {error}") from error
            if not isinstance(found, dict):
                raise RecordError("malformed record", f"{place}: {member.name}: must be one object")
            said |= found
        elif member.name.endswith(TEXTS):
            try:
                text = _read(member, place).decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise RecordError(
                    "invalid text", f"{place}: {member.name}: not UTF-8; save it again"
                ) from error
    return said, text


def _read(member: Member, place: str) -> bytes:
    if member.size > LONGEST:
        raise RecordError("malformed record", f"{place}: {member.name}: longer than {LONGEST} bytes")
    try:
        return read_member(member)
    except DAMAGED as error:
        raise RecordError("unreadable member", f"{place}: {member.name}: {error}") from error


def _named(item: Item, media: dict[str, MediumKind], place: str) -> Item:
    """The sample's own media under the fields that name them, or under their kind's.

    A field of a .json that names another file (where the medium once lay) gives its kind alone: depth.png is an image
    by its ending.
    """
    fields = {kind: paths for kind, paths in all_paths(item, place).items() if paths}
    blank = {field: None for kind in KINDS for field in FIELDS[kind] if field in item}
    left = dict(media)
    named: dict[str, Any] = {}
    for kind, paths in fields.items():
        alike = [
            name
            for name, of in left.items()
            if of == kind or (of == "image" and kind in ("depth", "thermal"))
        ]
        chosen = [name for path in paths for name in alike if _ends_like(name, path)] or alike[: len(paths)]
        if len(chosen) != len(paths):
            raise RecordError(
                "missing medium",
                f"{place}: field {kind}: names {len(paths)} media and {len(chosen)} are beside it",
            )
        named[kind] = chosen
        left = {name: of for name, of in left.items() if name not in chosen}
    if not fields:
        for name, kind in left.items():
            named.setdefault(kind, []).append(name)
    return {**blank, **named}


def _ends_like(name: str, path: str) -> bool:
    return PurePosixPath(name).name == PurePosixPath(path.replace("\\", "/")).name
