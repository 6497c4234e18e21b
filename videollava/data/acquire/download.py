"""Downloads that survive interruption, into a verified local file.

What has arrived lies in `<target>.part`, what identifies the object in `<target>.version`. A later attempt
asks for the rest on the condition that the object hasn't changed; one that has starts again.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from videollava.data.acquire.addresses import shown
from videollava.data.acquire.remote import open_url
from videollava.data.acquire.replies import TransientError
from videollava.errors import InputError

__all__ = ["Download", "fetch_url", "sha256_of"]

BLOCK = 1 << 20
FIRST_PAUSE = 0.5  # seconds, doubled with every failure
LONGEST_PAUSE = 60.0
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Download:
    """One file to fetch; `origin` says which parameter asked for it."""

    url: str
    target: Path
    sha256: str
    origin: str

    @property
    def part(self) -> Path:
        """What has arrived so far."""
        return self.target.with_name(self.target.name + ".part")

    @property
    def version(self) -> Path:
        """Which version of the object that is of."""
        return self.target.with_name(self.target.name + ".version")

    @property
    def arrived(self) -> int:
        """Bytes that have arrived."""
        return self.part.stat().st_size if self.part.exists() else 0


def fetch_url(item: Download, retries: int, advance: Advance, stop: threading.Event) -> None:
    """Fetch and verify one file.

    Args:
        item: what to fetch, and where to.
        retries: how many attempts in a row may bring nothing new.
        advance: told of bytes as they arrive (negative where they are given up).
        stop: ends the download at the next block; what arrived stays for the next call.

    Raises:
        InputError: a wrong address, a refusal, a server that stays away, or another sha256 than declared.
    """
    if item.target.is_file():
        if sha256_of(item.target) == item.sha256:
            advance(item.target.stat().st_size)
            return
        item.target.unlink()  # staged for parameters that have changed since
    item.target.parent.mkdir(parents=True, exist_ok=True)
    resumed = item.part.exists()
    _fetch(item, retries, advance, stop)
    if resumed and not item.version.exists() and sha256_of(item.part) != item.sha256:
        # The server names no version, so the pieces may be of two: once more, in one piece.
        advance(-item.arrived)
        _forget(item)
        _fetch(item, retries, advance, stop)
    _verify(item)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(item: Download, retries: int, advance: Advance, stop: threading.Event) -> None:
    failures = 0
    advance(item.arrived)
    while not stop.is_set():
        before, pause = item.arrived, 0.0
        try:
            if _attempt(item, advance, stop):
                return
            reason = "the connection ended early"
        except (TransientError, OSError, http.client.HTTPException) as error:
            reason, pause = str(error) or type(error).__name__, getattr(error, "pause", 0.0)
        failures = 0 if item.arrived > before else failures + 1
        if failures > retries:
            raise InputError(
                f"{item.origin}: {shown(item.url)}: {failures} attempts brought nothing, the last: {reason}; "
                "what has arrived is kept: run the stage again once the server answers"
            )
        backoff = FIRST_PAUSE * 2**failures * random.uniform(0.5, 1)
        stop.wait(min(max(pause, backoff), LONGEST_PAUSE))
    raise InputError(f"{item.origin}: {shown(item.url)}: stopped; what has arrived is kept for the next run")


def _attempt(item: Download, advance: Advance, stop: threading.Event) -> bool:
    """Ask for what is missing and append it; whether the object is whole now."""
    start = item.arrived
    version = item.version.read_text() if start and item.version.exists() else ""
    with open_url(item.url, start, version, item.origin) as answer:
        if answer.start != start:  # a changed object, or a server that knows no ranges
            advance(-start)
            _forget(item)
        if answer.version:
            item.version.write_text(answer.version)
        with item.part.open("ab") as file:
            while block := answer.body.read(BLOCK):
                file.write(block)
                advance(len(block))
                if stop.is_set():
                    return False
    return answer.total < 0 or item.arrived == answer.total


def _verify(item: Download) -> None:
    found = sha256_of(item.part)
    if found != item.sha256:
        with item.part.open("rb") as file:
            page = " (a web page, perhaps a login)" if file.read(100).lstrip().startswith(b"<") else ""
        _forget(item)
        raise InputError(
            f"{item.origin}: {shown(item.url)}: its sha256 is {found}, declared is {item.sha256}; what was "
            f"fetched{page} is removed. Correct the declared sha256 if the object was changed on purpose, else have it "
            "uploaded again"
        )
    item.part.replace(item.target)
    item.version.unlink(missing_ok=True)


def _forget(item: Download) -> None:
    item.part.unlink(missing_ok=True)
    item.version.unlink(missing_ok=True)
