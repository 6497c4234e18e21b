"""Where a shard lies: among the shards of this checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from videollava.errors import InputError

__all__ = ["Shard", "find_shard"]


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard as the index names it; `size` in bytes."""

    source: str
    file: str
    size: int
    sha256: str
    md5: str


def find_shard(shard: Shard, index: Path) -> Path:
    """A file with the shard's bytes; InputError where there is none."""
    path = index.parent / "shards" / shard.source / shard.file
    if not path.is_file():
        raise InputError(
            f"{path}: not found; run `videollava shards {shard.source}`, or `dvc pull shards@{shard.source}`"
        )
    return path
