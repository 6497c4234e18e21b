"""A record: a conversation about media."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from videollava.data.records.marks import MediumKind

__all__ = ["Medium", "Record", "Role", "Turn"]

Role = Literal["human", "gpt"]


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Medium:
    """`path` names a member of its source's archives; it is looked up there and nowhere else, and may lead outside."""

    kind: MediumKind
    path: str


@dataclass(frozen=True, slots=True)
class Record:
    """Media stand in the order of their marks in the human turns; `kind` is a question's type, or "".

    For a test of one's own: `split` is train, validation, test or "" (not said); `answers` those that count as right,
    with repeats where people gave them (of a question with choices its letter); `choices` the texts of A, B, C.
    """

    id: str
    source: str
    turns: tuple[Turn, ...]
    media: tuple[Medium, ...] = ()
    kind: str = ""
    split: str = ""
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
