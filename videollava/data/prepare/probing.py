"""Opens the media that a source's records ask for, each once ever, in processes that may crash or hang."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice

from videollava.data.archives.listing import Member
from videollava.data.pool import Pool
from videollava.data.prepare.inspection import Inspected, Wanted, inspect_all
from videollava.data.prepare.opened import Opened
from videollava.data.prepare.verdicts import Verdicts
from videollava.data.records.marks import MediumKind

__all__ = ["Part", "probe"]

MEMBERS_A_TASK = 64
BYTES_A_TASK = 64 << 20
ASKED_AT_ONCE = 256

Part = tuple[int, int]  # i of n, from 1


@dataclass
class Group:
    """Wanted members of one archive, and what is known of them by name."""

    digest: str
    wanted: list[Wanted]
    known: dict[str, Inspected]

    @property
    def is_done(self) -> bool:
        """Whether all are known."""
        return len(self.known) == len(self.wanted)

    def results(self) -> Iterator[Inspected]:
        """In the order of the archive."""
        return (self.known[member.name] for member, _ in self.wanted)


def probe(opened: Opened, verdicts: Verdicts, pool: Pool, part: Part = (1, 1)) -> Iterator[Inspected]:
    """What is found of each wanted medium, in the order of the archives; of part i of n: every n-th group of them."""
    number, parts = part
    begun: deque[Group] = deque()
    owners: deque[Group] = deque()

    def tasks() -> Iterator[list[Wanted]]:
        for group in islice(_groups(opened, verdicts), number - 1, None, parts):
            begun.append(group)
            for task in _tasks([one for one in group.wanted if one[0].name not in group.known]):
                owners.append(group)
                yield task

    inspect_new = partial(inspect_all, known=verdicts.contents)
    apart = partial(_inspect_apart, pool)
    for found in pool.stream(inspect_new, tasks(), crashed=apart, window=4 * pool.workers):
        group = owners.popleft()
        verdicts.add(group.digest, found)
        group.known.update({seen.name: seen for seen in found})
        while begun and begun[0].is_done:
            yield from begun.popleft().results()
    for group in begun:
        yield from group.results()


def _groups(opened: Opened, verdicts: Verdicts) -> Iterator[Group]:
    """Wanted members in the order of the archives, some hundreds of one archive at a time."""
    wanted = (
        (member, opened.wanted[name]) for name, member in opened.catalogue.items() if name in opened.wanted
    )
    for archive, members in groupby(wanted, lambda one: one[0].archive):
        digest = opened.origins[archive].digest
        while group := list(islice(members, ASKED_AT_ONCE)):
            kinds: dict[MediumKind, list[str]] = {}
            for member, kind in group:
                kinds.setdefault(kind, []).append(member.name)
            known: dict[str, Inspected] = {}
            for kind, names in kinds.items():
                known.update(verdicts.of_members(digest, kind, names))
            yield Group(digest, group, known)


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
