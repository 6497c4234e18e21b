"""Where a checkpoint named by path or hub id lies on this machine."""

from __future__ import annotations

from pathlib import Path

from videollava.errors import InputError

__all__ = ["find_checkpoint", "locate"]

CONFIGS = (
    "config.json",
    "open_clip_config.json",
    "adapter_config.json",
    "projector.json",
    "mm_projector.bin",
)


def locate(name: str, near: Path) -> Path | None:
    """The local folder of `name` (a path or hub id): as it is, in or beside `near`, or in the hub cache."""
    last = Path(name).name
    for place in (Path(name), near / name, near / last, near.parent / name, near.parent / last):
        if any((place / config).is_file() for config in CONFIGS):
            return place
    return _cached(name)


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def find_checkpoint(source: Path | str) -> Path:
    """The folder of `source`; a hub id that is not here yet is fetched. InputError where there is neither."""
    path = Path(source)
    if path.is_dir():
        return path
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
