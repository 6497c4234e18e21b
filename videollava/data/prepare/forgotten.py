"""The media that a person had taken out: a list in git that stage `index` depends on."""

from __future__ import annotations

import re
from pathlib import Path

from videollava.errors import InputError

__all__ = ["FORGOTTEN", "read_forgotten"]

FORGOTTEN = Path("locks/forgotten.txt")
LINE = re.compile(r"([0-9a-f]{64})\s+(\S.*)")


def read_forgotten(workspace: Path) -> dict[str, str]:
    """By sha256 of a medium, why it is to be forgotten. InputError names a line that is not like that."""
    file = workspace / FORGOTTEN
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if not match:
            raise InputError(
                f"{file}: line {number}: {line[:80]!r}: write the medium's SHA-256 (64 hexadecimal digits, small "
                "letters), a space, and why"
            )
        found[match[1]] = match[2]
    return found
