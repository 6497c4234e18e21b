"""Stage `fetch@NAME`: a source of params.yaml becomes verified files under data/raw/NAME/.

Which files those are its lock says (lock.py), which the first sight of a source writes; sums that nobody knew before
are noted there. Work in progress lies under checkpoints/fetch/, which no pipeline tool removes: a killed fetch goes
on there. Each folder holds a source.json: what was asked for, and size and sha256 of every file. Of a source of kind
`folder` there is nothing else: its files are read where they lie.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from videollava.data.acquire.addresses import file_name, is_address, is_prefix, shown
from videollava.data.acquire.declared import addresses, choose, folder_of, where
from videollava.data.acquire.download import Download, fetch_all, sha256_of
from videollava.data.acquire.hub import hub_address
from videollava.data.acquire.located import MANIFEST, RAW
from videollava.data.acquire.lock import Lock, LockedFile, write_lock
from videollava.data.acquire.look import lock_source
from videollava.data.acquire.noted import Noted
from videollava.data.acquire.s3_client import access_of
from videollava.errors import InputError
from videollava.machine import DEFAULTS, Machine
from videollava.params import Params, Source
from videollava.scrub import has_signature

__all__ = ["STAGING", "fetch_source", "is_fetched", "run"]

STAGING = Path("checkpoints/fetch")
CONNECTIONS = 8  # at a time, where machine.yaml has fewer workers
CLIP_BYTES = 20 << 10  # of a generated clip, about
Advance = Callable[[int], None]


def run(params: Params, workspace: Path, machine: Machine = DEFAULTS, source: str = "") -> None:
    """Fetch one source (every one without a name) that isn't there yet.

    Raises:
        InputError: a source is declared wrongly, can't be had, isn't what was locked, or doesn't fit.
    """
    for one in choose(params, source):
        fetch_source(one, workspace, machine.work("fetch").loaders, machine.download_retries)


def fetch_source(source: Source, workspace: Path, workers: int = 0, retries: int = 5) -> Lock:
    """Fetch a source that isn't there yet; its lock, with every sum.

    workers: processes that draw clips, and connections at a time (one and 8 at least).
    """
    lock = lock_source(source, workspace, retries)
    folder, staged = workspace / RAW / source.name, workspace / STAGING / source.name
    held = is_fetched(lock, folder, workspace)
    if held is None:
        _check_space(source, lock, staged)
        with _bar(source.name, _total(source, lock)) as advance:
            held = _bring(source, lock, staged, workspace, workers, retries, advance)
        _publish(source, lock, held, staged, folder)
    lock = lock.with_sums(held)
    write_lock(workspace, source.name, lock)
    return lock


def is_fetched(lock: Lock, folder: Path, workspace: Path) -> dict[str, tuple[int, str]] | None:
    """Size and sha256 of every file, by name, where `folder` holds what is locked, unchanged; else None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        held = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
        root = workspace / Path(manifest["root"]).expanduser() if "root" in manifest else folder
        if not _fits(lock, held, manifest["source"] == lock.source):
            return None
        whole = all((root / name).stat().st_size == size for name, (size, _) in held.items())
        return held if whole and all(sha256_of(root / name) == held[name][1] for name in held) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fits(lock: Lock, held: dict[str, tuple[int, str]], same_source: bool) -> bool:
    """Whether these are the files that are locked: by their sums, wherever they come from; else by what was asked."""
    locked = {file.name: file.sha256 for file in lock.files}
    if not locked:  # generated
        return same_source
    return set(locked) == set(held) and all(
        digest == held[name][1] if digest else same_source for name, digest in locked.items()
    )


def _total(source: Source, lock: Lock) -> int:
    """Bytes of what is to be made or downloaded, as far as it is known."""
    if source.kind == "generated":
        return (source.train + source.test) * CLIP_BYTES
    if source.kind == "package":
        from videollava.data.acquire.made import package_files

        return sum(file.stat().st_size for file in package_files(source))
    return sum(max(file.size, 0) for file in lock.files)


def _check_space(source: Source, lock: Lock, staged: Path) -> None:
    staged.mkdir(parents=True, exist_ok=True)
    if source.kind == "folder":
        return
    # Blocks that are held, not sizes: a file of pieces has its full size from the first one on.
    arrived = sum(file.stat().st_blocks * 512 for file in staged.rglob("*") if file.is_file())
    left, free = _total(source, lock) - arrived, shutil.disk_usage(staged).free
    if left > free:
        raise InputError(
            f"{where(source)}: fetching takes {left / 2**30:.1f} GiB more and {free / 2**30:.1f} GiB are free; "
            "free some space, or drop it from params.yaml: sources"
        )


@contextmanager
def _bar(name: str, total: int) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), BarColumn(), *columns) as progress:
        yield partial(progress.advance, progress.add_task(name, total=total or None))


def _bring(
    source: Source,
    lock: Lock,
    staged: Path,
    workspace: Path,
    workers: int,
    retries: int,
    advance: Advance,
) -> dict[str, tuple[int, str]]:
    """Size and sha256 of every file of the source, once all lie in `staged` or where they are read."""
    if source.kind in ("package", "generated"):
        return _make(source, lock, staged, max(1, workers), advance)
    if source.kind == "folder":
        return _sum(source, lock, folder_of(source, workspace), advance)
    return _download(source, lock, staged, max(CONNECTIONS, workers), retries, advance)


def _make(
    source: Source, lock: Lock, folder: Path, workers: int, advance: Advance
) -> dict[str, tuple[int, str]]:
    from videollava.data.acquire.made import package_version, write_clips, write_package

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if source.kind == "generated":
        write_clips(source, folder, workers, lambda clips: advance(clips * CLIP_BYTES))
        return {file.name: (file.stat().st_size, sha256_of(file)) for file in sorted(folder.iterdir())}
    locked, version = lock.files[0], package_version(source)
    if version != locked.version:
        raise InputError(
            f"{where(source)}: {source.package} {version} is installed, locked is {locked.version}; run `pip install "
            f"{source.package}=={locked.version}`, or to take the data of this one {_relock(source)}"
        )
    write_package(source, folder, advance)
    file = folder / locked.name
    found = file.stat().st_size, sha256_of(file)
    _check_sum(source, locked, str(file), found)
    return {file.name: found}


def _sum(source: Source, lock: Lock, root: Path, advance: Advance) -> dict[str, tuple[int, str]]:
    """Sums of files that stay where they are."""
    held = {}
    for file in lock.files:
        path = root / file.name
        if not path.is_file():
            raise InputError(
                f"{where(source)}: {path}: it was there when it was locked and is not; {_relock(source)}"
            )
        held[file.name] = path.stat().st_size, sha256_of(path)
        _check_sum(source, file, str(path), held[file.name])
        advance(held[file.name][0])
    return held


def _check_sum(source: Source, locked: LockedFile, place: str, found: tuple[int, str]) -> None:
    if locked.size not in (-1, found[0]) or locked.sha256 not in ("", found[1]):
        raise InputError(
            f"{where(source)}: {place}: it was changed since it was locked (it has {found[0]} bytes, sha256 "
            f"{found[1][:16]}..., locked are {locked.size} and {locked.sha256[:16] or 'no sum'}...); to take it as it "
            f"is now {_relock(source)}"
        )


def _relock(source: Source, option: str = "") -> str:
    return f"run `videollava data lock {source.name}{option}`"


def _download(
    source: Source, lock: Lock, staged: Path, workers: int, retries: int, advance: Advance
) -> dict[str, tuple[int, str]]:
    _warn_of_signatures(source)
    _remove_strangers(lock, staged)
    with Noted(staged.with_name(f"{source.name}.sums")) as noted:
        held: dict[str, tuple[int, str]] = {}
        names = {staged / file.name: file for file in lock.files}

        def fetched(item: Download, digest: str) -> None:
            file = names[item.target]
            held[file.name] = item.target.stat().st_size, digest
            noted.add(file, *held[file.name])

        # Addresses as params.yaml has them now: a lock holds no signature, and no value of a variable.
        given = {file_name(url, where(source)): url for url, _ in _given(source)}
        items = (
            _download_of(source, noted.known(file), given.get(file.name, file.url), staged)
            for file in lock.files
        )
        fetch_all(items, workers, retries, advance, fetched, threading.Event())
    return held


def _given(source: Source) -> list[tuple[str, str]]:
    return [one for one in addresses(source) if not is_prefix(one[0])] if source.kind == "archive" else []


def _download_of(source: Source, file: LockedFile, url: str, staged: Path) -> Download:
    declared = source.kind == "archive" and bool(source.sha256)
    remedy = (
        "Correct the declared sha256 if the object was changed on purpose"
        if declared
        else (f"To take it as it is now {_relock(source, ' --forget-sums')}")
    )
    return Download(
        hub_address(url),
        staged / file.name,
        file.sha256,
        where(source),
        file.size,
        "" if source.kind == "hub" else file.version,  # a commit is in the address
        access_of(source),
        f"{remedy}, else have it put back",
    )


def _warn_of_signatures(source: Source) -> None:
    """A presigned address works, but what it lets anyone do for a while is then kept by whoever keeps params.yaml."""
    for url in (*source.urls, source.annotations):
        if has_signature(url):
            print(
                f"{where(source)}: {shown(url)}: a signature or token stands in params.yaml, which git and DVC keep; "
                "write ${NAME} in its place and set that variable in the environment"
            )


def _remove_strangers(lock: Lock, staged: Path) -> None:
    """What parameters that have changed since left."""
    names = {
        staged / f"{file.name}{end}" for file in lock.files for end in ("", ".part", ".version", ".pieces")
    }
    for path in sorted(staged.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif not path.is_dir() and path not in names:
            path.unlink()


def _publish(
    source: Source, lock: Lock, held: dict[str, tuple[int, str]], staged: Path, folder: Path
) -> None:
    """Move a complete source to where it belongs."""
    origins = [shown(url) for url in (*source.urls, source.annotations) if is_address(url)]
    seen = {file.name: file.seen for file in lock.files}
    manifest: dict[str, Any] = {
        "source": dict(lock.source),
        "files": {
            name: {"sha256": digest, "size": size, "seen": seen.get(name, 1)}
            for name, (size, digest) in sorted(held.items())
        },
        "from": origins,
    }
    if source.kind == "folder":
        manifest["root"] = source.path
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(folder)
    staged.with_name(f"{source.name}.sums").unlink(missing_ok=True)
