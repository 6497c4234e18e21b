"""Where a checkpoint named by path or hub id lies on this machine."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

from videollava.errors import InputError
from videollava.model.formats.folders import CONFIGS, resolve

__all__ = ["find_checkpoint", "locate"]

SNAPSHOT = re.compile(r"models--([^/]+)--([^/]+)/snapshots/")  # in the hub cache of whatever machine


def locate(name: str, near: Path) -> Path | None:
    """The local folder of `name` (a path or hub id): as it is, in, beside or above `near`, or in the hub cache.

    A path of another machine is found by its last part, one of Windows too.
    """
    if "\\" in name:
        name = PureWindowsPath(name).as_posix()
    last = Path(name).name
    around = (near, near.parent, near.parent.parent)
    for place in (Path(name), *(folder / part for folder in around for part in (name, last))):
        found = resolve(place) if place == Path(name) and place.is_dir() else place
        if any((found / config).is_file() for config in CONFIGS) and found.resolve() != near.resolve():
            return found
    snapshot = SNAPSHOT.search(name)
    return _cached(f"{snapshot[1]}/{snapshot[2]}" if snapshot else name)


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def find_checkpoint(source: Path | str) -> Path:
    """The folder of `source`; a hub id that is not here yet is fetched. InputError where there is neither.

    A file in a checkpoint's folder means the folder; a hub cache folder, its snapshot.
    """
    path = Path(source)
    if path.exists():
        return resolve(path)
    name = str(source)
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise InputError(f"{name}: no such folder, and not a hub id (owner/name)")
    found = _cached(name)
    if found is not None:
        return found
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, OSError) as error:
        raise InputError(f"{name}: no such folder, and the hub does not give it: {error}") from error
