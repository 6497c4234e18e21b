"""A look at a source: which files it has now, how large, of which version; their lock is made of that.

Nothing is downloaded for it. Package sources are one file of the package's version; generated ones are what their
numbers say.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from videollava.data.acquire.addresses import LONGEST_NAME, file_name, is_prefix, shown
from videollava.data.acquire.attempts import ask_patiently
from videollava.data.acquire.declared import RESERVED, addresses, asked, check_source, folder_of, where
from videollava.data.acquire.hub import list_hub, resolve_hub
from videollava.data.acquire.located import MANIFEST
from videollava.data.acquire.lock import Lock, LockedFile, look_again, read_lock, write_lock
from videollava.data.acquire.remote import list_url, see_url
from videollava.data.acquire.s3_client import access_of
from videollava.errors import InputError
from videollava.params import Source

__all__ = ["local_name", "lock_source"]

RETRIES = 5
_ODD = re.compile(r"[\x00-\x1f\x7f]")


def lock_source(
    source: Source, workspace: Path, retries: int = RETRIES, *, again: bool = False, forget: bool = False
) -> Lock:
    """A source's lock; where it has none, or one for what is no longer asked, by a look at it.

    again: look at it whatever the lock says. forget: keep no sum that was noted before.

    Raises InputError where it is declared wrongly or can't be looked at.
    """
    check_source(source)
    before = read_lock(workspace, source.name)
    if before is not None and before.source == asked(source) and not again:
        return before
    found = list(_look(source, workspace, retries))
    _check_names(source, found)
    lock = look_again(before, asked(source), found)
    if forget:
        declared = {file.name: file.sha256 for file in found}
        lock = Lock(
            lock.source,
            tuple(
                LockedFile(file.name, file.url, file.size, declared[file.name], file.version, file.seen)
                for file in lock.files
            ),
        )
    write_lock(workspace, source.name, lock)
    return lock


def local_name(key: str) -> str:
    """The path that a key of a store gets here: its own, but for parts that no path may have."""
    return "/".join(_local_part(part) for part in key.split("/"))


def _local_part(part: str) -> str:
    if part in ("", ".", ".."):
        return "%2E" * len(part) or "%"
    plain = _ODD.sub(lambda found: quote(found[0]), part)
    if len(plain.encode("utf-8", "surrogatepass")) <= LONGEST_NAME:
        return plain
    stem, dot, ending = plain.rpartition(".")
    ending = f"{dot}{ending}" if stem and len(ending) < 16 else ""
    kept = plain.encode("utf-8", "ignore")[: LONGEST_NAME - 34].decode("utf-8", "ignore")
    return f"{kept}-{hashlib.sha256(part.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}{ending}"


def _look(source: Source, workspace: Path, retries: int) -> Iterator[LockedFile]:
    if source.kind == "archive":
        for url, digest in addresses(source):
            yield from _look_at(source, url, digest.lower(), retries)
    elif source.kind == "folder":
        yield from _look_into(source, folder_of(source, workspace))
    elif source.kind == "hub":
        place = where(source)
        commit = resolve_hub(source.repo, source.revision, source.repo_type, origin=place, retries=retries)
        for seen in list_hub(
            source.repo, commit, source.repo_type, source.files, origin=place, retries=retries
        ):
            yield LockedFile(local_name(seen.name), seen.url, seen.size, seen.sha256, seen.version)
    elif source.kind == "package":
        from videollava.data.acquire.made import package_version

        yield LockedFile(f"{source.name}.tar", version=package_version(source))


def _look_at(source: Source, url: str, digest: str, retries: int) -> Iterator[LockedFile]:
    place, access = where(source), access_of(source)
    if not is_prefix(url):
        seen = ask_patiently(lambda: see_url(url, place, access), url, place, retries)
        yield LockedFile(file_name(url, place), shown(url), seen.size, digest, seen.version)
        return
    found = ask_patiently(lambda: list(list_url(url, place, access)), url, place, retries)
    if not found:
        raise InputError(f"{place}: {shown(url)}: no object is below it; check bucket and prefix")
    for seen in found:
        yield LockedFile(local_name(seen.name), seen.url, seen.size, "", seen.version)


def _look_into(source: Source, root: Path) -> Iterator[LockedFile]:
    if not root.is_dir():
        raise InputError(f"{where(source)}: path: {root}: there is no such folder")
    count = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                count += 1
                yield LockedFile(path.relative_to(root).as_posix(), size=path.stat().st_size)
    if not count:
        raise InputError(f"{where(source)}: path: {root}: no file is in it")


def _check_names(source: Source, found: list[LockedFile]) -> None:
    """Files that could not lie beside each other."""
    names: dict[str, LockedFile] = {}
    for file in found:
        other = names.setdefault(file.name, file)
        if other is not file:
            raise InputError(
                f"{where(source)}: {shown(other.url)} and {shown(file.url)} would both be {file.name} here; make them "
                "two sources, or rename one"
            )
    if source.kind == "folder":
        return
    for name in names:
        parents = [part.as_posix() for part in Path(name).parents if part != Path(".")]
        clash = next((part for part in parents if part in names), "")
        if clash:
            raise InputError(
                f"{where(source)}: {clash} is a file, and {name} lies in a folder of that name; rename one"
            )
        if name == MANIFEST or any(
            name.endswith(end) and name.removesuffix(end) in names for end in RESERVED
        ):
            raise InputError(f"{where(source)}: {name}: a file of that name is written here too; rename it")
