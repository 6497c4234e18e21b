"""Opens the media that a source's records ask for, each once ever, in processes that may crash or hang."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby

from videollava.data.archives.listing import Member
from videollava.data.pool import Pool
from videollava.data.prepare.inspection import Inspected, Wanted, inspect_all
from videollava.data.prepare.opened import Opened
from videollava.data.prepare.verdicts import Verdicts
from videollava.data.records.marks import MediumKind

__all__ = ["probe"]

MEMBERS_A_TASK = 64
BYTES_A_TASK = 64 << 20
ASKED_AT_ONCE = 4096


def probe(
    opened: Opened, verdicts: Verdicts, pool: Pool, part: tuple[int, int] = (0, 1)
) -> Iterator[Inspected]:
    """What is found of each wanted medium, in the order of the archives; part i of n: every n-th group of them."""
    groups = (group for number, group in enumerate(_groups(opened)) if number % part[1] == part[0])
    for archive, wanted in groups:
        digest = opened.origins[archive].digest
        kinds: dict[MediumKind, list[str]] = {}
        for member, kind in wanted:
            kinds.setdefault(kind, []).append(member.name)
        known: dict[str, Inspected] = {}
        for kind, names in kinds.items():
            known.update(verdicts.of_members(digest, kind, names))
        fresh = [(member, kind) for member, kind in wanted if member.name not in known]
        for found in pool.stream(inspect_all, _tasks(fresh), crashed=partial(_inspect_apart, pool)):
            verdicts.add(digest, found)
            known.update({seen.name: seen for seen in found})
        yield from (known[member.name] for member, _ in wanted)


def _groups(opened: Opened) -> Iterator[tuple[str, list[Wanted]]]:
    """Wanted members in the order of the archives, some thousands of one archive at a time."""
    wanted = (
        (member, opened.wanted[name]) for name, member in opened.catalogue.items() if name in opened.wanted
    )
    for archive, members in groupby(wanted, lambda one: one[0].archive):
        group: list[Wanted] = []
        for one in members:
            group.append(one)
            if len(group) == ASKED_AT_ONCE:
                yield archive, group
                group = []
        if group:
            yield archive, group


def _tasks(wanted: list[Wanted]) -> Iterator[list[Wanted]]:
    group: list[tuple[Member, MediumKind]] = []
    size = 0
    for member, kind in wanted:
        group.append((member, kind))
        size += member.size
        if len(group) >= MEMBERS_A_TASK or size >= BYTES_A_TASK:
            yield group
            group, size = [], 0
    if group:
        yield group


def _inspect_apart(pool: Pool, group: list[Wanted]) -> list[Inspected]:
    """Find the medium that kills the process which opens it."""
    if len(group) == 1:
        member, kind = group[0]
        detail = "the decoder crashed, hung or ran out of memory"
        return [Inspected(member.name, kind, reason=f"broken {kind}", detail=detail)]
    singles = ([wanted] for wanted in group)
    results = pool.stream(inspect_all, singles, crashed=partial(_inspect_apart, pool), window=1)
    return [seen for found in results for seen in found]
