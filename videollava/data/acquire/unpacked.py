"""A fetched source as plain files: archives unpacked, other files linked. For benchmarks, which read folders."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from videollava.data.acquire.located import MANIFEST, source_files
from videollava.data.archives.listing import JUNK, list_archive
from videollava.data.archives.members import Member, Refusal, open_member
from videollava.data.archives.parts import group_parts, is_archive
from videollava.errors import InputError

__all__ = ["unpack_fetched", "unpacked_folder"]

RAW = ("data", "raw")


def unpacked_folder(folder: str, workspace: Path) -> Path:
    """The folder; of a fetched source (data/raw/NAME) its files out of their archives."""
    parts = Path(folder).parts
    if parts[:2] != RAW or len(parts) < 3:
        return workspace / folder
    whole = unpack_fetched(workspace.joinpath(*parts[:3]), workspace / "checkpoints/benchmarks")
    return whole.joinpath(*parts[3:])


def unpack_fetched(folder: Path, scratch: Path) -> Path:
    """The files of a fetched source (`folder`: data/raw/NAME) as they lie in its archives, in a folder of `scratch`
    that is theirs alone; unpacked once.

    InputError where it is not fetched, an archive cannot be read whole, two files of it have one name, or it does not
    fit.
    """
    files = dict(source_files(folder))
    state = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    target = scratch / f"{folder.name}-{state[:12]}"
    if target.is_dir():
        return target
    building, plain = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.plain")
    for place in (building, plain):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    try:
        names = {path: name for name, path in files.items()}
        for group in group_parts(sorted(files.values())):
            if is_archive(group[0].name):
                _unpack(group, plain, building)
            else:
                _put(building, names[group[0]], group[0]).symlink_to(group[0].absolute())
        for older in scratch.glob(f"{folder.name}-*"):
            if older not in (building, plain):
                shutil.rmtree(older, ignore_errors=True)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(plain, ignore_errors=True)
    return target


def _unpack(group: list[Path], plain: Path, target: Path) -> None:
    found = list(list_archive(group, plain))
    refused = next((one for one in found if isinstance(one, Refusal) and one.reason != JUNK), None)
    if refused:
        raise InputError(
            f"{group[0]}: {refused.name or 'the archive'}: {refused.reason}: {refused.detail}; a benchmark must be "
            "whole: fetch it again, or mend the archive"
        )
    members = [one for one in found if isinstance(one, Member)]
    needed, free = sum(one.size for one in members), shutil.disk_usage(target).free
    if needed > free:
        raise InputError(
            f"{target}: {group[0].name} unpacks to {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free"
        )
    for member in members:
        with open_member(member) as source, _put(target, member.name, group[0]).open("xb") as out:
            shutil.copyfileobj(source, out, 1 << 20)


def _put(target: Path, name: str, origin: Path) -> Path:
    place = target / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        raise InputError(f"{origin}: {name} is in another file of the source too; fetch them as two sources")
    return place
