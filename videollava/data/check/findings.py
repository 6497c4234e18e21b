"""What a check has seen: counts that take the same memory for any number of records, but for 8-byte marks of each."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from videollava.data.check.lengths import Length
from videollava.data.records.marks import KINDS, MediumKind, find_marks
from videollava.data.records.record import Medium, Record
from videollava.data.records.rejected import Notes, Rejected

__all__ = ["EXAMPLES", "Findings", "Problem"]

EXAMPLES = 20  # of a reason, that are shown
_FIELD = re.compile(r"field ([\w.\[\]]+)")
TRAINED, TESTED, ROLES = 1, 2, 2  # bits


@dataclass(frozen=True)
class Problem:
    """One record that would be quarantined, or that a person should look at."""

    file: str
    record: str
    reason: str
    detail: str

    def as_json(self) -> dict[str, str]:
        """With the field that its sentence names."""
        found = _FIELD.search(self.detail)
        place = {"file": self.file, "record": self.record, "field": found[1] if found else ""}
        return {**place, "reason": self.reason, "detail": self.detail}


@dataclass
class Findings:
    """Counts of a source's records. `listed` takes every problem as a line of JSON."""

    listed: IO[str] | None = None
    records: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    warned: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Problem]] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    turns: int = 0
    marks: Counter[str] = field(default_factory=Counter)
    media: Counter[str] = field(default_factory=Counter)  # named, with repeats
    distinct: Counter[str] = field(default_factory=Counter)
    media_bytes: int = 0
    texts_only: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    cut_records: int = 0
    cut_tokens: int = 0
    _seen: dict[int, int] = field(default_factory=dict)
    _ids: set[int] = field(default_factory=set)
    _paths: dict[int, int] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        """Records that would be quarantined."""
        return self.refused.total()

    def refuse(self, entry: Rejected) -> None:
        """One more entry that is no record."""
        self.records += 1
        self._refuse(Problem(entry.file, entry.record, entry.reason, entry.detail))

    def take(self, record: Record, file: str, sizes: Mapping[str, int]) -> bool:
        """One more record whose media are there; sizes: their bytes, as far as they are known."""
        self.records += 1
        self.turns += len(record.turns)
        self.texts_only += not record.media
        self.splits[record.split or "not said"] += 1
        if record.kind and (record.kind in self.kinds or len(self.kinds) < 1000):
            self.kinds[record.kind] += 1
        role = TESTED if record.split == "test" else TRAINED
        for medium in record.media:
            self.media[medium.kind] += 1
            mark = hash(medium.path)
            if mark not in self._paths:
                self.distinct[medium.kind] += 1
                self.media_bytes += sizes.get(medium.path, 0)
                self._paths[mark] = KINDS.index(medium.kind) << ROLES
            self._paths[mark] |= role
        for turn in record.turns:
            if turn.role == "human" and "<" in turn.text:
                self.marks.update(find_marks(turn.text))
        return self._compare(record, file)

    def measure(self, file: str, record: Record, length: Length) -> None:
        """How long a taken record is."""
        if length.refused:
            self._refuse(
                Problem(file, record.id, "too long", f"{file}: record {record.id!r}: {length.refused}")
            )
            return
        self.lengths[length.tokens] += 1
        if length.cut > 0:
            self.cut_records += 1
            self.cut_tokens += length.cut

    def both_sides(self) -> int:
        """Media of test records that others are trained on too."""
        both = TRAINED | TESTED
        return sum(seen & both == both for seen in self._paths.values())

    def other_kind(self, medium: Medium) -> MediumKind | None:
        """The kind that an earlier record has this medium for, where it is another."""
        seen = self._paths.get(hash(medium.path))
        kind = medium.kind if seen is None else KINDS[seen >> ROLES]
        return None if kind == medium.kind else kind

    def _compare(self, record: Record, file: str) -> bool:
        same = hash((record.media, record.turns))
        first = self._seen.setdefault(same, self.records)
        if first != self.records:
            detail = f"{file}: record {record.id!r}: says what entry {first - 1} says; one is enough"
            self._warn(Problem(file, record.id, "repeats another record", detail))
        name = hash(record.id)
        if name in self._ids and first == self.records:
            detail = f"{file}: record {record.id!r}: field id: another has it; reports can't tell them apart"
            self._warn(Problem(file, record.id, "id of another record", detail))
        self._ids.add(name)
        return first == self.records

    def _refuse(self, problem: Problem) -> None:
        self.refused[problem.reason] += 1
        self._list(problem)

    def _warn(self, problem: Problem) -> None:
        self.warned[problem.reason] += 1
        self._list(problem)

    def _list(self, problem: Problem) -> None:
        shown = self.examples.setdefault(problem.reason, [])
        if len(shown) < EXAMPLES:
            shown.append(problem)
        if self.listed is not None:
            self.listed.write(json.dumps(problem.as_json()) + "\n")

    def quantile(self, share: float) -> int:
        """The length that this share of the records does not exceed; 0 without any."""
        left = share * self.lengths.total()
        for length in sorted(self.lengths):
            left -= self.lengths[length]
            if left <= 0:
                return length
        return 0

    def as_json(self) -> dict[str, Any]:
        """All of it, with the examples."""
        lengths = {name: self.quantile(share) for name, share in QUANTILES.items()}
        return {
            "records": self.records,
            "usable": self.records - self.rejected,
            "quarantined": dict(self.refused),
            "warnings": dict(self.warned),
            "notes": dict(self.notes),
            "turns": self.turns,
            "text_only": self.texts_only,
            "marks": dict(self.marks),
            "media": dict(self.media),
            "distinct_media": dict(self.distinct),
            "media_bytes": self.media_bytes,
            "splits": dict(self.splits),
            "kinds": dict(self.kinds),
            "media_in_test_and_training": self.both_sides(),
            "lengths": {**lengths, "mean": round(self.mean_length(), 1)},
            "cut": {"records": self.cut_records, "tokens": self.cut_tokens},
            "problems": [problem.as_json() for shown in self.examples.values() for problem in shown],
        }

    def mean_length(self) -> float:
        """Of the records that can be used, in tokens."""
        total = sum(length * count for length, count in self.lengths.items())
        return total / max(1, self.lengths.total())


QUANTILES = {"shortest": 0.0, "median": 0.5, "90%": 0.9, "99%": 0.99, "longest": 1.0}
