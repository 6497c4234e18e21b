"""Where the files of a fetched source lie: under data/raw/NAME, or of a folder where they were."""

from __future__ import annotations

import json
from pathlib import Path

from videollava.data.acquire.declared import MANIFEST
from videollava.errors import InputError

__all__ = ["source_files"]


def source_files(folder: Path, workspace: Path) -> list[tuple[str, Path]]:
    """Name and place of every file of the source whose fetched folder this is, by name.

    Raises InputError where it wasn't fetched whole.
    """
    manifest = folder / MANIFEST
    try:
        held = json.loads(manifest.read_text())
        root = workspace / Path(held["root"]).expanduser() if "root" in held else folder
        return [(name, root / name) for name in sorted(held["files"])]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{manifest}: not found; run `videollava fetch {folder.name}` first") from error
