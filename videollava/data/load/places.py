"""Where a shard lies: among the shards of this checkout, else in the DVC remote, fetched once into a node's cache.

A shard is known by its sums: DVC calls it by its md5, in its remotes too. Of a remote that is a folder it is read in
place; from s3:// or https:// it comes whole into the cache, verified by sha256, for all processes of this host. What
was not used for longest leaves the cache when it is full.
"""

from __future__ import annotations

import configparser
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videollava.data.acquire.download import Download, fetch_url
from videollava.data.acquire.s3_client import Access
from videollava.errors import InputError

__all__ = ["CACHE", "CACHE_GIB", "Remote", "Shard", "find_shard", "read_remote"]

CACHE = "VIDEOLLAVA_SHARD_CACHE"  # a folder of this host
CACHE_GIB = "VIDEOLLAVA_SHARD_CACHE_GIB"  # how much of it; without it half of the disk's free space
RETRIES = 5
PATIENCE = 3600.0  # seconds for another process of this host that fetches the same shard


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard as the index names it; `size` in bytes. frames: how many are stored of its clips, and their side."""

    source: str
    file: str
    size: int
    sha256: str
    md5: str
    frames: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Remote:
    """A DVC remote: an address, or a folder."""

    url: str
    access: Access

    @property
    def folder(self) -> Path | None:
        """Where it is on this host's disks; None where it is none."""
        return None if "://" in self.url else Path(self.url)

    def address(self, md5: str) -> str:
        """Of the file with this sum."""
        return f"{self.url.rstrip('/')}/files/md5/{md5[:2]}/{md5[2:]}"


def find_shard(shard: Shard, index: Path) -> Path:
    """A file with the shard's bytes; InputError where there is none to be had.

    index: the folder data/index of a checkout.
    """
    here = index.parent / "shards" / shard.source / shard.file
    if _is_whole(here, shard):
        return here
    remote = read_remote(index.absolute().parents[1])
    lacking = "not what was written" if here.is_file() else "not found"
    if remote is None:
        raise InputError(
            f"{here}: {lacking}, and no DVC remote is set to take it from; run `videollava shards {shard.source}`, or "
            "set one: `videollava remote set`"
        )
    if remote.folder is not None:
        there = Path(remote.address(shard.md5))
        if not _is_whole(there, shard):
            raise InputError(
                f"{here}: {lacking}, nor as {there} in the DVC remote; run `videollava shards {shard.source}`, or "
                f"`dvc push shards@{shard.source}` where they are"
            )
        return there
    return _fetch(shard, remote)


def read_remote(workspace: Path) -> Remote | None:
    """The default DVC remote of a checkout, from .dvc/config and .dvc/config.local; None without one.

    Keys that stand there go into the environment, where nothing else says them: boto3 reads them there.
    """
    config = configparser.ConfigParser(interpolation=None)
    folder = workspace / ".dvc"
    config.read([folder / "config", folder / "config.local"])
    name = config.get("core", "remote", fallback="")
    section = f"'remote \"{name}\"'"
    if not name or not config.has_section(section):
        return None
    values = dict(config.items(section))
    url = values.get("url", "")
    if not url:
        return None
    for key in ("access_key_id", "secret_access_key", "session_token"):
        if key in values:
            os.environ.setdefault(f"AWS_{key.upper()}", values[key])
    url = url.removeprefix("file://")
    if "://" not in url:
        url = str((folder / Path(url).expanduser()).resolve())
    return Remote(
        url, Access(values.get("endpointurl", ""), values.get("region", ""), values.get("profile", ""))
    )


def _is_whole(path: Path, shard: Shard) -> bool:
    return path.is_file() and path.stat().st_size == shard.size


def _fetch(shard: Shard, remote: Remote) -> Path:
    from filelock import FileLock, Timeout

    cache = _cache_folder()
    path = cache / f"{shard.sha256}.tar"
    if _is_whole(path, shard):
        os.utime(path)
        return path
    try:
        with FileLock(cache / f"{shard.sha256}.lock", timeout=PATIENCE):
            if not _is_whole(path, shard):
                _make_room(cache, shard)
                origin = f"shard {shard.file} of data/index"
                item = Download(
                    remote.address(shard.md5), path, shard.sha256, origin, shard.size, access=remote.access
                )
                fetch_url(item, RETRIES, lambda count: None, threading.Event())
    except Timeout as error:
        raise InputError(
            f"{path}: another process has been fetching it for an hour; is it stopped?"
        ) from error
    return path


def _cache_folder() -> Path:
    asked = os.environ.get(CACHE, "")
    home = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache")
    folder = Path(asked) if asked else home / "videollava/shards"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _make_room(cache: Path, shard: Shard) -> None:
    """Remove what was not used for longest until the shard fits; a process that reads one keeps what it has open."""
    held = sorted(cache.glob("*.tar"), key=lambda path: path.stat().st_mtime)
    sizes = {path: path.stat().st_size for path in held}
    free = shutil.disk_usage(cache).free
    asked = os.environ.get(CACHE_GIB, "")
    try:
        limit = float(asked) * 2**30 if asked else sum(sizes.values()) + free / 2
    except ValueError as error:
        raise InputError(f"{CACHE_GIB} is {asked!r} in the environment: write a number of GiB") from error
    if shard.size > limit:
        raise InputError(
            f"{cache}: shard {shard.file} has {shard.size / 2**30:.1f} GiB, and the cache may hold "
            f"{limit / 2**30:.1f}; "
            f"set {CACHE_GIB} higher, or {CACHE} to a folder with more room"
        )
    for path in held:
        if sum(sizes.values()) + shard.size <= limit:
            return
        path.unlink(missing_ok=True)
        del sizes[path]
