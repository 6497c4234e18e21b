"""`videollava data add`, `remove` and `lock`: a source's entry, its lock and its line in dvc.yaml, kept in step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videollava.data.acquire.addresses import is_address
from videollava.data.acquire.lock import LOCKS, Lock, read_lock
from videollava.data.acquire.look import lock_source
from videollava.data.adding.entries import put_entry, take_entry, take_portion
from videollava.data.adding.sight import Sight, look_into
from videollava.data.prepare.listed import join_params
from videollava.errors import InputError
from videollava.params import Source, load_params

__all__ = ["Added", "Relocked", "add_source", "entry_of", "lock_again", "remove_source"]

_HUB = re.compile(
    r"(?:hf://|https://huggingface\.co/)(?P<kind>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<rev>[^/]+))?/?"
)
UNGUESSED = "auto"


@dataclass(frozen=True)
class Added:
    """A source that was added, and what was seen of it."""

    source: Source
    lock: Lock
    sight: Sight


@dataclass(frozen=True)
class Relocked:
    """What another look found, by name."""

    lock: Lock
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]

    def in_words(self) -> str:
        """What differs, such as "2 new (a.tar, b.tar), 1 gone (c.tar)"; "" where nothing does."""
        kinds = (("new", self.added), ("changed", self.changed), ("gone", self.removed))
        return ", ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{', ..' if len(names) > 3 else ''})"
            for what, names in kinds
            if names
        )


def add_source(workspace: Path, name: str, entry: Mapping[str, Any]) -> Added:
    """Look at a source, write its lock, its entry in params.yaml and its lines in dvc.yaml.

    Raises InputError, with all as it was, where the name is taken, the entry is not valid, or it can't be looked at.
    """
    file = workspace / "params.yaml"
    if name in load_params(file).sources:
        raise InputError(
            f"{file}: sources: {name} is there; `videollava data remove {name}`, or take another name"
        )
    held = read_lock(workspace, name)
    text = file.read_text()
    params = put_entry(file, name, entry)
    try:
        source = params.sources[name]
        lock = lock_source(source, workspace, again=held is not None)
        sight = look_into(source, lock, workspace)
        if sight.form and source.format == UNGUESSED:
            take_entry(file, name)
            params = put_entry(file, name, {**entry, "format": sight.form})
        join_params(workspace, params)
    except BaseException:
        file.write_text(text)
        if held is None:
            (workspace / LOCKS / f"{name}.json").unlink(missing_ok=True)
        raise
    return Added(params.sources[name], lock, sight)


def remove_source(workspace: Path, name: str) -> bool:
    """Take a source's entry, lines and lock away; what was fetched stays. Whether index.sources named it too, which
    goes with it. InputError where there is none.
    """
    file = workspace / "params.yaml"
    text = file.read_text() if file.is_file() else ""
    take_entry(file, name)
    try:
        had_portion = take_portion(file, name)
        join_params(workspace, load_params(file))
    except BaseException:
        file.write_text(text)
        raise
    (workspace / LOCKS / f"{name}.json").unlink(missing_ok=True)
    return had_portion


def lock_again(workspace: Path, name: str, *, forget: bool = False) -> Relocked:
    """Look at a source again and lock what is there now. InputError where there is none of this name."""
    sources = load_params(workspace / "params.yaml").sources
    if name not in sources:
        raise InputError(f"params.yaml: sources: no {name!r}; there are: {', '.join(sources) or 'none'}")
    before = read_lock(workspace, name)
    lock = lock_source(sources[name], workspace, again=True, forget=forget)
    old = {file.name: file for file in before.files} if before else {}
    new = {file.name: file for file in lock.files}
    changed = [
        key
        for key in new
        if key in old and (new[key].size, new[key].version) != (old[key].size, old[key].version)
    ]
    return Relocked(
        lock,
        tuple(key for key in new if key not in old),
        tuple(changed),
        tuple(key for key in old if key not in new),
    )


def entry_of(target: str, workspace: Path, **given: Any) -> dict[str, Any]:
    """The entry of an address, a folder or `hf://` name; given: other fields, empty ones left out.

    Raises InputError where it is nothing that can be had.
    """
    fields = {name: value for name, value in given.items() if value not in ("", (), [], False, None)}
    form = {"format": fields.pop("format", UNGUESSED)}
    if found := _HUB.fullmatch(target):
        kind = {} if found["kind"] else {"repo_type": "model"}
        revision = {"revision": found["rev"]} if found["rev"] else {}
        return {"kind": "hub", **form, "repo": found["repo"], **kind, **revision, **fields}
    if is_address(target):
        return {"kind": "archive", **form, "urls": [target], **fields}
    place = Path(target).expanduser()
    if place.is_dir():
        # As it was typed, so that a path beside the checkout stays one on another machine.
        return {"kind": "folder", **form, "path": target, **fields}
    if place.is_file():
        return {"kind": "archive", **form, "urls": [place.resolve().as_uri()], **fields}
    raise InputError(
        f"{target}: neither an address (s3://, https://, file://, hf://datasets/ORG/NAME) nor a folder or file here"
    )
