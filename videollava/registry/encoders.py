"""A version's encoders as its `align` left them (models/encoders): with the text tower that all are bound to, and those
of modalities that the language model does not use.

As its answers they lie in DVC's stores, under the hash of their folder that the version carries: nothing is kept twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from videollava.data.modalities import KINDS
from videollava.errors import InputError
from videollava.params import Tracking, load_params
from videollava.registry.manifest import (
    bring_object,
    cache_of,
    have_object,
    inside,
    lacks_object,
    make_once,
    model_cache,
)
from videollava.registry.store import Store
from videollava.registry.versions import Version, find_version, version_manifest

__all__ = ["list_objects", "resolve_encoders", "why_unasked"]

PAIR = "languagebind"  # model_type of an encoder that has its text tower beside it


def resolve_encoders(
    reference: str,
    workspace: Path = Path("."),
    tracking: Tracking | None = None,
    places: Sequence[Store] = (),
) -> Path:
    """A folder with a registered version's encoders (image/, video/, ..), linked together or downloaded.

    places: stores beside those that the version was registered with. InputError where it keeps none, or no store holds
    a file.
    """
    if tracking is None:
        file = workspace / "params.yaml"
        tracking = load_params(file).tracking if file.is_file() else Tracking()
    version = find_version(workspace, tracking, reference)
    known = _stores(workspace, tracking, version, places)
    try:
        return _unfold(workspace, version, known)
    except InputError as error:
        raise InputError(_lacking(version, str(error))) from error


def _unfold(workspace: Path, version: Version, known: Sequence[Store]) -> Path:
    """Made once, then reused."""
    folder = model_cache(workspace).with_name("encoders") / _key(version).removesuffix(".dir")
    rows = _read_listing(workspace, version, known)
    if rows and all((folder / path).is_file() for path in rows):
        return folder

    def fill(aside: Path) -> None:
        for path, md5 in rows.items():
            bring_object(md5, known, aside / path)

    return make_once(folder, fill)


def list_objects(workspace: Path, version: Version, places: Sequence[Store]) -> list[str]:
    """Hashes of the files of a version's encoders. InputError where no store has the list of them."""
    return list(_read_listing(workspace, version, [cache_of(workspace), *places]).values())


def why_unasked(
    workspace: Path,
    tracking: Tracking,
    version: Version,
    asked: Mapping[str, Mapping[str, Any]],
    names: Iterable[str],
    places: Sequence[Store] = (),
) -> dict[str, str]:
    """Why a version's encoders cannot be asked benchmarks of `asked` (metrics.json) by these names, where they cannot.

    Nothing is downloaded but a list and configs. What only DVC can read may be there, and is not spoken of.
    """
    wanted = list(names)
    if not wanted:
        return {}
    from videollava.embedding.zero_shot.sets import kinds_asked

    known = _stores(workspace, tracking, version, places)
    try:
        there = _kinds(workspace, version, known)
    except InputError as error:
        unread = version.encoders and any(place.trouble for place in known)
        return {} if unread else dict.fromkeys(wanted, _lacking(version, str(error)))
    lacks = {name: [kind for kind in kinds_asked(name, asked) if kind not in there] for name in wanted}
    have = ", ".join(there) or "none with a text tower"
    return {
        name: f"{version.reference} has no encoder of {' and '.join(kinds)} (it has {have})"
        for name, kinds in lacks.items()
        if kinds
    }


def _key(version: Version) -> str:
    if not version.encoders:
        saved = version.saved and (
            f"; `dvc get . models/encoders --rev {version.saved[:12]} --out FOLDER` brings those of its commit"
        )
        raise InputError(f"it was registered without them, by an earlier release{saved}")
    return version.encoders


def _lacking(version: Version, why: str) -> str:
    more = ""
    if version.encoders:
        more = (
            "; `dvc push` them from where they were trained, or let DVC bring them here: "
            f"`python -m flows.storage {version.number} --encoders`"
        )
    return f"{version.reference}: its encoders cannot be had: {why}{more}"


def _stores(workspace: Path, tracking: Tracking, version: Version, places: Sequence[Store]) -> list[Store]:
    recorded: list[Store] = []
    with suppress(InputError):  # its logged model was deleted
        recorded = version_manifest(workspace, tracking, version.reference)[1]
    return list(dict.fromkeys([cache_of(workspace), *places, *recorded]))


def _read_listing(workspace: Path, version: Version, known: Sequence[Store]) -> dict[str, str]:
    """Of each file its md5, by its path."""
    text = have_object(_objects(workspace), _key(version), known).read_text()
    try:
        return {inside(row["relpath"]): row["md5"] for row in json.loads(text)}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{version.encoders} is no list of a folder's files ({error})") from error


def _kinds(workspace: Path, version: Version, known: Sequence[Store]) -> list[str]:
    """Modalities whose encoders can be had with their text tower. InputError where a file is in no store."""
    rows = _read_listing(workspace, version, known)
    for path, md5 in rows.items():
        if lacks_object(md5, known):
            raise InputError(f"{path} ({md5}) is in none of {', '.join(place.url for place in known)}")
    found: list[str] = []
    for kind in KINDS:
        config = rows.get(f"{kind}/config.json", "")
        if config:
            told = json.loads(have_object(_objects(workspace), config, known).read_text())
            found += [kind] if told.get("model_type") == PAIR else []
    return found


def _objects(workspace: Path) -> Path:
    return model_cache(workspace).with_name("objects")
