"""Answers on disk: a log that survives kill -9 at any byte, one file a rank; and the benchmark's own format.

Log, one line a question:    {"question_id", "text"[, "cut"]}, or {"question_id", "problem"[, "unasked"]}
Answers file, as officially: {"question_id", "text", ..what the benchmark has beside them}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from videollava.errors import InputError
from videollava.evaluate.questions import Item

__all__ = ["AnswerLog", "Given", "write_answers", "write_lines"]


@dataclass
class Given:
    """Answers by question id, and the questions that have none with the reason.

    unasked: those of the latter that could not be put to the model (too long for its positions, or empty); the
    others lack a medium. cut: answers that end where the positions do.
    """

    texts: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    unasked: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)

    @property
    def lacking(self) -> dict[str, str]:
        """Questions that lack a medium, with the reason."""
        return {key: problem for key, problem in self.problems.items() if key not in self.unasked}

    def __contains__(self, question: object) -> bool:
        return question in self.texts or question in self.problems

    def __len__(self) -> int:
        return len(self.texts) + len(self.problems)


class AnswerLog:
    """The log in `folder`; this process appends to `<rank>.jsonl` and reads all of them.

    A process that is killed leaves at most a torn last line: it is cut off, and the question asked again.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self.path = folder, folder / f"{rank}.jsonl"
        self._file: IO[bytes] | None = None

    def read(self) -> Given:
        """What all ranks have answered so far."""
        given = Given()
        for path in sorted(self.folder.glob("*.jsonl")):
            lines = path.read_bytes().split(b"\n")
            for number, line in enumerate(lines[:-1], 1):
                try:
                    row = json.loads(line)
                    target = given.problems if "problem" in row else given.texts
                    target[row["question_id"]] = row["problem"] if "problem" in row else row["text"]
                    for name, marked in (("unasked", given.unasked), ("cut", given.cut)):
                        if row.get(name):
                            marked.add(row["question_id"])
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(
                        f"{path}: line {number}: not an answer ({error!r}); remove the file"
                    ) from error
        return given

    def __enter__(self) -> AnswerLog:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab", buffering=0)
        content = self.path.read_bytes()
        if not content.endswith(b"\n"):
            self._file.truncate(content.rfind(b"\n") + 1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, question: str, text: str) -> None:
        """An answer, with the system before this returns."""
        self._write({"question_id": question, "text": text})

    def add_cut(self, question: str, text: str) -> None:
        """An answer that ends where the model's positions do."""
        self._write({"question_id": question, "text": text, "cut": True})

    def lack(self, question: str, problem: str, *, unasked: bool = False) -> None:
        """A question that cannot be answered, and why."""
        self._write({"question_id": question, "problem": problem} | ({"unasked": True} if unasked else {}))

    def _write(self, row: Mapping[str, str | bool]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(row).encode() + b"\n")


def write_answers(items: Sequence[Item], given: Given, blank: bool, target: Path) -> int:
    """The answers file in the questions' order; gives the number of lines.

    A question without an answer has the text "" where `blank`, else no line.
    """
    rows = [
        {"question_id": item.id, "text": given.texts.get(item.id, ""), **item.fields}
        for item in items
        if blank or item.id in given.texts
    ]
    write_lines(rows, target)
    return len(rows)


def write_lines(rows: Iterable[Mapping[str, object]], target: Path) -> None:
    """JSON lines, written aside and renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(target.name + ".tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    os.replace(aside, target)
