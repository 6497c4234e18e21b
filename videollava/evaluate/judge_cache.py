"""Verdicts on disk, so that no question is put twice to a judge: JSON lines that are only ever appended to.

A process killed while it writes leaves at most a torn last line, which is skipped and counted when read.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from videollava.evaluate.judge_prompts import Ask

__all__ = ["Cache", "Entry", "key_of"]


@dataclass(frozen=True)
class Entry:
    """One ask: the replies of its attempts in order and as they came, `usable` where one was readable then.

    Whoever reads them may read them otherwise: the replies are what was paid for. note: why the last one is not
    whole. room: the most tokens that it could have. final: with no more room the same would come again.
    """

    key: str
    judge: str
    version: str
    prompt: str
    id: str
    replies: tuple[str, ...]
    usable: bool
    note: str = ""
    room: int = 0
    final: bool = False


def key_of(judge: str, ask: Ask) -> str:
    """SHA-256 of all that a verdict depends on: judge, prompt, question, answers, run."""
    parts = [
        judge,
        ask.prompt.hash,
        ask.question,
        ask.answer,
        ask.prediction,
        ask.run,
        sorted(ask.more.items()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Cache:
    """Entries by key. Safe for threads; `torn` counts lines that could not be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.is_file() else b""
        for line in content.split(b"\n"):
            self._read(line)
        # A torn last line must not swallow the next entry.
        self._lead = b"\n" if content and not content.endswith(b"\n") else b""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """The entry of a key, None where the judge was never asked."""
        return self._entries.get(key)

    def put(self, entry: Entry) -> None:
        """Add an entry, on disk before it returns."""
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with self._lock:
            with self.path.open("ab") as file:
                file.write(self._lead + line)
            self._lead = b""
            self._entries[entry.key] = entry

    def _read(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            row = json.loads(line)
            entry = Entry(**{**row, "replies": tuple(row["replies"])})
        except (ValueError, TypeError, KeyError):
            self.torn += 1
            return
        self._entries[entry.key] = entry
