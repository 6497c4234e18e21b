"""What a group leaves beside its data: journals of the stages that ran, and the locks and sums that they noted.

A small archive on the team's remote: the coordinator unpacks it where the stages would have written on one machine.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.history.snapshot import LOCKS
from flows.places.git import run_git
from flows.team.shelf import Shelf
from videollava.errors import InputError
from videollava.tracking.lineage import locked_input_key
from videollava.tracking.spent import find_journal

__all__ = ["pack", "unpack"]

NAME = re.compile(rf"{LOCKS}/[^\s].*|runs/[^/]+/[^/]+\.(jsonl|json)")


def pack(root: Path, ran: Sequence[str], shelf: Shelf, name: str) -> str:
    """Put it on the remote, under `name`. ran: the stages of `root` that ran there."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for file in (*_locks(root), *_journals(root, ran)):
            archive.add(file.resolve(), file.relative_to(root).as_posix(), recursive=False)
    shelf.write(name, stream.getvalue())
    return name


def unpack(root: Path, shelf: Shelf, name: str) -> None:
    """Lay out in `root` what was packed. A journal that is here already, and no shorter, stays."""
    content = shelf.read(name)
    if content is None:
        raise InputError(f"{name}: is not on the DVC remote any more, and a worker put it there")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            if not member.isfile() or not NAME.fullmatch(member.name) or ".." in Path(member.name).parts:
                raise InputError(f"{name}: holds {member.name!r}, which no stage leaves")
            target = root / member.name
            source = archive.extractfile(member)
            if source is None or (target.suffix == ".jsonl" and _longer(target, member.size)):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_name(f"{target.name}.tmp")
            aside.write_bytes(source.read())
            aside.replace(target)


def _locks(root: Path) -> Iterator[Path]:
    """Those that differ from the commit that was brought, which is what git's index holds."""
    for words in (("diff", "--name-only"), ("ls-files", "--others", "--exclude-standard")):
        for name in run_git(root, *words, "-z", "--", LOCKS).split("\0"):
            if name and (root / name).is_file():
                yield root / name


def _journals(root: Path, ran: Sequence[str]) -> Iterator[Path]:
    """With what was forwarded of them, so that it is not sent twice."""
    for stage in ran:
        journal = find_journal(root, stage, locked_input_key(root, stage))
        if journal is not None:
            yield from (journal, *sorted(journal.parent.glob(f"{journal.stem}.*.json")))


def _longer(target: Path, size: int) -> bool:
    return target.is_file() and target.stat().st_size >= size
