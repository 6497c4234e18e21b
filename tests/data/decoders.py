"""A decoder that one file hangs; a worker imports this, so it imports little."""

from __future__ import annotations

import signal
from typing import Any

from videollava.data.prepare import inspection
from videollava.data.prepare.inspection import Inspected, inspect_all

BAD = "c.mp4"


def hang(media: list[Any], known: Any = None) -> list[Inspected]:
    """As inspect_all, with a decoder that the bad clip hangs, and less patience."""
    inspect = inspection.inspect

    def inspect_or_hang(name: str, kind: Any, data: bytes) -> Inspected:
        while name == BAD:
            signal.pause()
        return inspect(name, kind, data)

    inspection.inspect, inspection.LONGEST = inspect_or_hang, 2
    try:
        return inspect_all(media, known)
    finally:
        inspection.inspect = inspect
