"""What could not be used: written with its reason as it is found, counted, and bounded."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from videollava.data.archives.listing import JUNK, Refusal
from videollava.data.records.readers import Rejected
from videollava.errors import InputError

__all__ = ["Quarantine"]


class Quarantine:
    """quarantine.jsonl in the making, with counts by source and reason.

    Records count against the limit; archive members that are refused are reported, and count through the
    records that miss them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w")
        self._records: Counter[str] = Counter()
        self._rejected: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._refused: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._examples: dict[tuple[str, str], str] = {}

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def count(self, source: str) -> None:
        """One more entry of a source was read."""
        self._records[source] += 1

    def reject(self, entry: Rejected) -> None:
        """A record that can't be used."""
        self._rejected[entry.source][entry.reason] += 1
        example = f"{entry.file}: {entry.record}: {entry.detail}"
        self._examples.setdefault((entry.source, entry.reason), example)
        place = {"source": entry.source, "file": entry.file, "record": entry.record}
        self._write(**place, reason=entry.reason, detail=entry.detail)

    def refuse(self, source: str, member: Refusal) -> None:
        """An archive's member that is not read."""
        file = Path(member.archive).name
        self._refused[source][member.reason] += 1
        name = f"{file}: {member.name}" if member.name else file
        self._examples.setdefault((source, member.reason), f"{name}: {member.detail}")
        if member.reason == JUNK:
            return  # counted; a list of them would be as long as the archive's
        place = {"source": source, "file": file, "member": member.name}
        self._write(**place, reason=member.reason, detail=member.detail)

    def take_over(self, source: str, file: Path, summary: Mapping[str, Any]) -> None:
        """What another list holds of a source, with its counts: `summary` of the stage that wrote it."""
        with file.open() as lines:
            shutil.copyfileobj(lines, self._file)
        found = summary["quarantined"]
        self._records[source] += summary["records"]
        for counts, kept in ((found["by_source"], self._rejected), (found["members"], self._refused)):
            if source in counts:
                kept[source].update(counts[source])
        for reason, example in found.get("examples", {}).items():
            self._examples.setdefault((source, reason), example)

    def _write(self, **entry: str) -> None:
        self._file.write(json.dumps(entry) + "\n")

    def summary(self) -> dict[str, Any]:
        """Counts by source and reason, and the share of all records."""
        rejected = sum(counter.total() for counter in self._rejected.values())
        return {
            "records": rejected,
            "share": round(rejected / max(self._records.total(), 1), 6),
            "examples": {reason: example for (_, reason), example in sorted(self._examples.items())},
            "by_source": {source: dict(counter) for source, counter in self._rejected.items()},
            "members": {source: dict(counter) for source, counter in self._refused.items()},
        }

    def check(self, limit: float, copy: Path) -> None:
        """InputError where more than `limit` of a source's records can't be used; `copy` then is the list."""
        self._file.flush()
        complaints = [
            self._complaint(source, total, limit)
            for source, total in sorted(self._records.items())
            if self._rejected[source].total() > limit * total
        ]
        if complaints:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._path, copy)
            remedy = f"The whole list is {copy}. Mend the data, or raise the limit."
            raise InputError("\n".join([*complaints, remedy]))

    def _complaint(self, source: str, total: int, limit: float) -> str:
        reasons = self._rejected[source]
        count = reasons.total()
        lines = [
            f"source {source!r}: {count} of {total} records can't be used ({count / total:.1%}; "
            f"params.yaml: shards.max_quarantined allows {limit:.1%})"
        ]
        for counter, what in ((reasons, "records"), (self._refused[source], "members of archives")):
            for reason, count in counter.most_common(5):
                lines.append(f"  {count} {what}: {reason}, such as {self._examples[source, reason]}")
        return "\n".join(lines)
