"""Where the files of a fetched source lie: under data/raw/NAME, or of a folder where they were."""

from __future__ import annotations

import json
from pathlib import Path

from videollava.errors import InputError

__all__ = ["MANIFEST", "RAW", "source_files"]

RAW = Path("data/raw")
MANIFEST = "source.json"  # in each fetched folder: what was asked for, and every file


def source_files(folder: Path) -> list[tuple[str, Path]]:
    """Name and place of every file of the source whose fetched folder (data/raw/NAME) this is, by name.

    Raises InputError where it wasn't fetched, or one of its files is gone.
    """
    manifest = folder / MANIFEST
    try:
        held = json.loads(manifest.read_text())
        # A relative folder is one of the checkout, three above data/raw/NAME.
        root = folder.absolute().parents[2] / Path(held["root"]).expanduser() if "root" in held else folder
        files = [(name, root / name) for name in sorted(held["files"])]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{manifest}: not found; run `videollava fetch {folder.name}` first") from error
    gone = next((path for _, path in files if not path.is_file()), None)
    if gone is not None:
        raise InputError(
            f"{gone}: it was there when {folder.name} was fetched and is not; put it back, or run "
            f"`videollava data lock {folder.name}` and `videollava fetch {folder.name}`"
        )
    return files
