"""Which records, splits and registered versions saw a medium; and having it forgotten."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from videollava.data.prepare.forgotten import FORGOTTEN, read_forgotten
from videollava.data.prepare.tables import is_trained_on, load_split
from videollava.data.versions.indexes import Indexed
from videollava.errors import InputError

__all__ = ["Seen", "VersionSeen", "forget", "look_up", "look_up_versions", "sum_of"]

SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass
class Seen:
    """Of one medium in one index: `places` the sources in whose shards it lies, `records` (split, source, id)."""

    places: list[str] = field(default_factory=list)
    records: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def splits(self) -> Counter[str]:
        """Records by split."""
        return Counter(split for split, _, _ in self.records)

    @property
    def trained_on(self) -> bool:
        """Whether a training split has it."""
        return any(is_trained_on(split) for split in self.splits)


@dataclass(frozen=True)
class VersionSeen:
    """A registered version: `splits` of its data that have the medium; `unknown`: why that cannot be told."""

    reference: str
    splits: Mapping[str, int] = field(default_factory=dict)
    trained_on: bool = False
    unknown: str = ""


def sum_of(named: str) -> str:
    """The SHA-256 that a person means: of a file, or as it is written. InputError where it is neither."""
    if Path(named).is_file():
        with Path(named).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if SHA256.fullmatch(named):
        return named.lower()
    raise InputError(f"{named}: neither a file nor a SHA-256 (64 hexadecimal digits)")


def look_up(index: Indexed, sha256: str) -> Seen:
    """Where an index has a medium."""
    wanted = bytes.fromhex(sha256)
    numbers = [number for number, one in enumerate(index.hashes) if one == wanted]
    seen = Seen([index.sources[number] for number in numbers])
    if not numbers:
        return seen
    for split in index.splits():
        seen.records += _find(index, split, numbers)
    return seen


def look_up_versions(
    versions: Iterable[tuple[str, str, str]], sha256: str, open_data: Callable[[str, str], Indexed]
) -> list[VersionSeen]:
    """Of each version (reference, its data's hash, its git tag) whether it saw a medium; data are opened once each.

    open_data: the index of a hash and tag; InputError where it is not to be had.
    """
    known: dict[str, Seen | str] = {}
    found = []
    for reference, data, tag in versions:
        if data and data not in known:
            try:
                known[data] = look_up(open_data(data, tag), sha256)
            except InputError as error:
                known[data] = str(error)
        seen = known[data] if data else "its lineage names no data"
        if isinstance(seen, str):
            found.append(VersionSeen(reference, unknown=seen))
        else:
            found.append(VersionSeen(reference, dict(seen.splits), seen.trained_on))
    return found


def forget(workspace: Path, sha256: str, because: str) -> None:
    """Write a medium into locks/forgotten.txt. InputError where it is there already, or no reason is given."""
    reason = " ".join(because.split())
    if not reason:
        raise InputError("--because: say why, for whoever reads locks/forgotten.txt")
    held = read_forgotten(workspace)
    if sha256 in held:
        raise InputError(f"{FORGOTTEN}: {sha256} is forgotten already: {held[sha256]}")
    file = workspace / FORGOTTEN
    file.parent.mkdir(exist_ok=True)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    half = file.with_name(f"{file.name}.tmp")
    half.write_text(
        f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{sha256} {reason}\n", "utf-8"
    )
    half.replace(file)


def _find(index: Indexed, split: str, numbers: list[int]) -> list[tuple[str, str, str]]:
    """Looks through the numbers of media, and reads names only of what it found."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = load_split(index.folder, split).select(["id", "source", "media"])
    found = []
    for batch in table.to_batches():
        media = batch.column("media")
        hit = pc.is_in(pc.list_flatten(media), value_set=pa.array(numbers, media.type.value_type))
        rows = pc.unique(pc.list_parent_indices(media).filter(hit))
        for row in batch.take(rows).to_pylist():
            found.append((split, row["source"], row["id"]))
    return found
