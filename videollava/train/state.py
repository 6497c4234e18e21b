"""Training checkpoints that survive kill -9: written aside, checksummed, renamed, the last two kept.

A checkpoint is a folder `step-00000120/` of files and a `manifest.json` with their SHA-256. A torn or damaged one is
reported and passed over for the one before it. Weights load with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.train.launch.fence import ATTEMPT, check_held

__all__ = [
    "Checkpoint",
    "clear_aside",
    "find_checkpoint",
    "has_room",
    "place_aside",
    "seal",
    "write_checkpoint",
]

FORMAT = 1
KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """A whole, verified checkpoint."""

    folder: Path
    step: int
    about: dict[str, Any]


def write_checkpoint(folder: Path, step: int, about: dict[str, Any], fill: Callable[[Path], None]) -> bool:
    """Write `step` by `fill(folder)`; True if it stands. A full disk is reported and training goes on."""
    aside = place_aside(folder, step)
    try:
        clear_aside(folder, step)
        fill(aside)
        seal(folder, step, about)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        print(
            f"checkpoint of step {step} not written ({error.strerror}): the one before it stays", flush=True
        )
        return False
    return True


def place_aside(folder: Path, step: int) -> Path:
    """Where the parts of `step` are written before they count: no other attempt at this stage writes there."""
    attempt = os.environ.get(ATTEMPT, "")
    return folder / f"step-{step:08d}{'.' if attempt else ''}{attempt}.tmp"


def clear_aside(folder: Path, step: int) -> None:
    """An empty folder where the parts of `step` are written, whatever an earlier process left in it."""
    aside = place_aside(folder, step)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)


def has_room(folder: Path, size: int) -> bool:
    """Whether `size` bytes and a little more are free below `folder`."""
    return shutil.disk_usage(folder).free > 1.05 * size


def seal(folder: Path, step: int, about: dict[str, Any]) -> None:
    """Checksum what lies in the aside folder of `step`, move it into place and drop the oldest."""
    aside = place_aside(folder, step)
    files = {str(f.relative_to(aside)): _sha256(f) for f in sorted(aside.rglob("*")) if f.is_file()}
    manifest = aside / "manifest.json"
    with open(manifest, "w") as file:
        json.dump({"format": FORMAT, "step": step, "about": about, "files": files}, file)
        file.flush()
        os.fsync(file.fileno())
    target = folder / f"step-{step:08d}"
    check_held()
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)
    for old in [*sorted(folder.glob("step-????????"))[:-KEEP], *folder.glob("*.tmp")]:
        shutil.rmtree(old, ignore_errors=True)  # also what killed attempts left


def find_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint below `folder`, or None."""
    for candidate in sorted(folder.glob("step-????????"), reverse=True):
        reason, manifest = _inspect(candidate)
        if not reason:
            return Checkpoint(candidate, manifest["step"], manifest["about"])
        print(f"checkpoint {candidate.name} is damaged ({reason}); trying the one before it", flush=True)
    return None


def _inspect(folder: Path) -> tuple[str, dict[str, Any]]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        return f"manifest.json: {error}", {}
    if manifest.get("format", 0) > FORMAT:
        raise InputError(
            f"{folder}: checkpoint format {manifest['format']} is newer than this program's {FORMAT}"
        )
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file() or _sha256(path) != digest:
            return name, {}
    return "", manifest


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest
