"""Stage `fetch@NAME`: a source of params.yaml becomes verified archives under data/raw/NAME/.

Work in progress lies under checkpoints/fetch/, which no pipeline tool removes: a killed fetch resumes there.
Each folder holds a source.json: what was asked for, and the size and sha256 of every file.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from videollava.data.acquire.addresses import file_name, is_address, shown
from videollava.data.acquire.download import Download, fetch_url, sha256_of
from videollava.data.acquire.remote import remote_size
from videollava.errors import InputError
from videollava.machine import DEFAULTS, Machine
from videollava.params import Params, Source
from videollava.scrub import has_signature

__all__ = ["MANIFEST", "RAW", "STAGING", "choose", "is_fetched", "run"]

RAW = Path("data/raw")
STAGING = Path("checkpoints/fetch")
MANIFEST = "source.json"
CLIP_BYTES = 20 << 10  # of a generated clip, about
Advance = Callable[[int], None]


def run(params: Params, workspace: Path, machine: Machine = DEFAULTS, source: str = "") -> None:
    """Fetch one source (every one without a name) that isn't there yet.

    Raises:
        InputError: a source is declared wrongly, can't be had, isn't what was declared, or doesn't fit.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    workers = max(1, machine.work("fetch").loaders)
    chosen = choose(params, source)
    raw, staging = workspace / RAW, workspace / STAGING
    missing = [one for one in chosen if not is_fetched(one, raw / one.name)]
    sizes = {one.name: _sizes(one, staging / one.name) for one in missing}
    _check_space(missing, sizes, staging)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for one in missing:
            if one.kind != "archive":
                bar = _bar(progress, one.name, sum(sizes[one.name].values()))
                _make(one, staging / one.name, workers, bar)
        archives = [one for one in missing if one.kind == "archive"]
        for one in archives:
            for item in _downloads(one, staging / one.name):
                _warn_of_signature(item)
        _download(archives, sizes, staging, machine.download_retries, workers, progress)
    # Only now, all at once: a fetch that dies before this loses nothing when data/raw is wiped.
    for one in missing:
        _publish(one, staging / one.name, raw / one.name)


def is_fetched(source: Source, folder: Path) -> bool:
    """Whether `folder` holds this source, as asked for now, with every file as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return manifest["source"] == _identity(source) and all(
            sha256_of(folder / name) == entry["sha256"] for name, entry in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _identity(source: Source) -> dict[str, Any]:
    """What decides the content of a source's files: of an archive the digests, wherever it is had from."""
    if source.kind == "archive":
        return {
            "kind": "archive",
            "sha256": {item.target.name: item.sha256 for item in _downloads(source, Path())},
        }
    asked = source.model_dump(include={"kind", "package", "train", "test", "seed"})
    if source.kind == "package":
        from videollava.data.acquire.made import package_version

        asked["version"] = package_version(source)
    return asked


def choose(params: Params, name: str) -> list[Source]:
    """The source of this name, checked; all without one. InputError where there is none, or one is declared wrongly."""
    if not params.sources:
        raise InputError("params.yaml: sources is empty; name at least one source")
    if name and name not in params.sources:
        raise InputError(f"params.yaml: sources: no {name!r}; there are: {', '.join(params.sources)}")
    chosen = [params.sources[name]] if name else list(params.sources.values())
    _check_sources(chosen)
    return chosen


def _check_sources(sources: Sequence[Source]) -> None:
    for source in sources:
        where = _where(source)
        if source.kind == "archive":
            _downloads(source, Path())
        elif source.kind == "package" and not source.package:
            raise InputError(f"{where}: kind package needs `package`, the name that pip installs")
        elif source.kind == "generated" and (source.train < 1 or source.test < 0):
            raise InputError(f"{where}: kind generated needs `train` (and `test`), how many clips to draw")


def _where(source: Source) -> str:
    return f"params.yaml: sources.{source.name}"


def _downloads(source: Source, folder: Path) -> list[Download]:
    """What to download for a source; `annotations` may be an address too, its sha256 is then the last."""
    where = _where(source)
    urls = [*source.urls, *([source.annotations] if is_address(source.annotations) else [])]
    if not urls:
        raise InputError(f"{where}: kind archive needs `urls`")
    if len(source.sha256) != len(urls):
        raise InputError(
            f"{where}: {len(urls)} addresses but {len(source.sha256)} sha256; give one for each of `urls` "
            "(and then for `annotations`, where that is an address): `sha256sum FILE` prints it"
        )
    names = [file_name(url, where) for url in urls]
    for url, name, digest in zip(urls, names, source.sha256, strict=True):
        if not name or names.count(name) > 1 or name == MANIFEST:
            raise InputError(f"{where}: {shown(url)}: every address must end in a file name of its own")
        if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
            raise InputError(f"{where}: {shown(url)}: sha256 {digest!r} is not 64 hex digits")
    return [
        Download(url, folder / name, digest.lower(), where)
        for url, name, digest in zip(urls, names, source.sha256, strict=True)
    ]


def _warn_of_signature(item: Download) -> None:
    """A presigned address works, but what it lets anyone do for a while is then kept by whoever keeps params.yaml."""
    if has_signature(item.url):
        print(
            f"{item.origin}: {shown(item.url)}: a signature or token stands in params.yaml, which git and DVC keep; "
            "write ${NAME} in its place and set that variable in the environment"
        )


def _sizes(source: Source, folder: Path) -> dict[str, int]:
    """Bytes of what is to be made or downloaded, by file; -1 where nobody says."""
    if source.kind == "generated":
        return {source.name: (source.train + source.test) * CLIP_BYTES}
    if source.kind == "package":
        from videollava.data.acquire.made import package_files

        return {source.name: sum(file.stat().st_size for file in package_files(source))}
    return {item.target.name: remote_size(item.url, item.origin) for item in _downloads(source, folder)}


def _check_space(sources: list[Source], sizes: dict[str, dict[str, int]], staging: Path) -> None:
    staging.mkdir(parents=True, exist_ok=True)
    needed = sum(max(size, 0) for files in sizes.values() for size in files.values())
    arrived = sum(
        item.target.stat().st_size if item.target.is_file() else item.arrived
        for source in sources
        if source.kind == "archive"
        for item in _downloads(source, staging / source.name)
    )
    free = shutil.disk_usage(staging).free
    left = needed - arrived
    if left > free:
        raise InputError(
            f"{staging}: fetching takes {left / 2**30:.1f} GiB more and {free / 2**30:.1f} GiB are free; "
            "free some space, or drop sources from params.yaml"
        )


def _bar(progress: Any, name: str, total: int) -> Advance:
    return partial(progress.advance, progress.add_task(name, total=total if total >= 0 else None))


def _make(source: Source, folder: Path, workers: int, advance: Advance) -> None:
    from videollava.data.acquire.made import write_clips, write_package

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if source.kind == "package":
        write_package(source, folder, advance)
    else:
        write_clips(source, folder, workers, lambda clips: advance(clips * CLIP_BYTES))


def _download(
    sources: list[Source],
    sizes: dict[str, dict[str, int]],
    staging: Path,
    retries: int,
    workers: int,
    progress: Any,
) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        tasks = [
            pool.submit(
                fetch_url,
                item,
                retries,
                _bar(progress, item.target.name, sizes[source.name][item.target.name]),
                stop,
            )
            for source in sources
            for item in _downloads(source, staging / source.name)
        ]
        try:
            for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
                task.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _publish(source: Source, staged: Path, folder: Path) -> None:
    """Move a complete source to where it belongs."""
    expected = {item.target.name for item in _downloads(source, staged)} if source.kind == "archive" else None
    for file in staged.iterdir():
        if expected is not None and file.name not in expected:
            file.unlink()  # left by parameters that have changed since
    files = {
        file.name: {"sha256": sha256_of(file), "size": file.stat().st_size}
        for file in sorted(staged.iterdir())
        if file.name != MANIFEST
    }
    origins = [shown(url) for url in (*source.urls, source.annotations) if is_address(url)]
    manifest = {"source": _identity(source), "files": files, "from": origins}
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(folder)
