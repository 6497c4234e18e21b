"""A file that lies by itself, as a member: media need no archive around them."""

from __future__ import annotations

from pathlib import Path

from videollava.data.archives.members import Member, Refusal
from videollava.data.archives.names import clean_name, is_safe

__all__ = ["as_member"]


def as_member(name: str, path: Path) -> Member | Refusal:
    """The file at `path` under its name in the source."""
    clean = clean_name(name)
    if not is_safe(clean):
        return Refusal(str(path), clean, "unsafe member", "its path leads outside the source")
    return Member(str(path), clean, path.stat().st_size, 0, written=name)
