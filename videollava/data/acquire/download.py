"""Downloads that survive interruption, into verified local files; large objects in pieces, side by side.

What has arrived lies in `<target>.part`: from its start on, or where `<target>.pieces` stands beside it, the pieces
that are named there (start, end, crc32). `<target>.version` says of which version of the object they are. A later
attempt asks for the rest on the condition that the object hasn't changed; one that has starts again.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from videollava.data.acquire.addresses import shown
from videollava.data.acquire.attempts import WORTH_ANOTHER, Attempts
from videollava.data.acquire.pieces import Pieces, comes_in_pieces
from videollava.data.acquire.remote import BY_ENVIRONMENT, open_url
from videollava.data.acquire.replies import Answer, Span
from videollava.data.acquire.s3_client import Access
from videollava.errors import InputError

__all__ = ["Download", "Fetched", "OtherBytes", "fetch_all", "fetch_url", "sha256_of"]

BLOCK = 1 << 18
LOOKED_AFTER = 64 << 20  # bytes of an object whose size nobody said, between two looks at the disk
LEAST_ROOM = 256 << 20  # bytes that are left on it
Advance = Callable[[int], None]
Fetched = Callable[["Download", str], None]


class OtherBytes(InputError):
    """What was fetched has another sha256 than was declared."""


@dataclass(frozen=True)
class Download:
    """One file to fetch; `origin` says which parameter asked for it.

    sha256, size, version: what it must be ("", -1: not known). A version that is pinned and another one now is an
    error, save over http with a known sha256: servers of the same bytes give other tags.
    """

    url: str
    target: Path
    sha256: str
    origin: str
    size: int = -1
    version: str = ""
    access: Access = BY_ENVIRONMENT
    remedy: str = (
        "Correct the declared sha256 if the object was changed on purpose, else have it uploaded again"
    )

    @property
    def part(self) -> Path:
        """What has arrived so far."""
        return self.target.with_name(self.target.name + ".part")

    @property
    def version_file(self) -> Path:
        """Which version of the object that is of."""
        return self.target.with_name(self.target.name + ".version")

    @property
    def pieces(self) -> Path:
        """Which pieces have arrived, of a large object."""
        return self.target.with_name(self.target.name + ".pieces")

    @property
    def is_pinned(self) -> bool:
        """Whether another version than the one that is known is an error at once."""
        return bool(self.version) and (self.url.lower().startswith("s3:") or not self.sha256)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_url(item: Download, retries: int, advance: Advance, stop: threading.Event) -> None:
    """Fetch and verify one file, by one thread; see fetch_all."""
    fetch_all([item], 1, retries, advance, lambda item, digest: None, stop)


def fetch_all(
    items: Iterable[Download],
    workers: int,
    retries: int,
    advance: Advance,
    fetched: Fetched,
    stop: threading.Event,
) -> None:
    """Fetch and verify files; none that is there is fetched again, and large ones go on with the pieces they have.

    Args:
        items: what to fetch, and where to.
        workers: connections at a time, over all files.
        retries: how many attempts in a row may bring nothing new.
        advance: told of bytes as they arrive (negative where they are given up).
        fetched: told of each file that is there and verified, with its sha256; by one thread at a time.
        stop: ends all at the next block; what arrived stays for the next call.

    Raises:
        InputError: a wrong address, a refusal, a server that stays away, another sha256, size or version than stated.
    """
    crew = _Crew(iter(items), retries, advance, fetched, stop)
    threads = [threading.Thread(target=crew.work, daemon=True) for _ in range(max(1, workers) - 1)]
    for thread in threads:
        thread.start()
    crew.work()
    for thread in threads:
        thread.join()
    if crew.error is not None:
        raise crew.error


class _Crew:
    """Threads that take what is next to do: pieces of files that were begun first, then the next file."""

    def __init__(
        self,
        items: Iterator[Download],
        retries: int,
        advance: Advance,
        fetched: Fetched,
        stop: threading.Event,
    ) -> None:
        self._items, self._retries, self._advance, self._fetched = items, retries, advance, fetched
        self._stop = stop
        self._ready: deque[Callable[[], None]] = deque()
        self._change = threading.Condition()
        self._telling = threading.Lock()
        self._beginning = 0
        self.error: BaseException | None = None

    def work(self) -> None:
        """Do what is to do, until nothing is."""
        while (task := self._next()) is not None:
            try:
                task()
            except BaseException as error:
                with self._change:
                    self.error = self.error or error
                    self._stop.set()
                    self._change.notify_all()
                return

    def _next(self) -> Callable[[], None] | None:
        with self._change:
            while self.error is None:
                if self._ready:
                    return self._ready.popleft()
                item = next(self._items, None)
                if item is not None:
                    self._beginning += 1
                    return lambda: self._begin(item)
                if not self._beginning:
                    return None
                self._change.wait(1.0)
        return None

    def _begin(self, item: Download) -> None:
        try:
            if item.target.is_file() and self._is_there(item):
                return
            item.target.parent.mkdir(parents=True, exist_ok=True)
            if not comes_in_pieces(item.size) or not (item.version or item.sha256):
                self._stream(item)
                return
            pieces = Pieces(item, self._advance)
            tasks: list[Callable[[], None]] = [
                lambda span=span: self._piece(item, pieces, span)  # type: ignore[misc]
                for span in pieces.missing()
            ]
            if not tasks:
                self._end_pieces(item, pieces)
            with self._change:
                self._ready.extend(tasks)
        finally:
            with self._change:
                self._beginning -= 1
                self._change.notify_all()

    def _is_there(self, item: Download) -> bool:
        """Whether it was fetched before; what is there for parameters that have changed since goes."""
        size = item.target.stat().st_size
        if item.sha256 and item.size in (-1, size) and sha256_of(item.target) == item.sha256:
            self._advance(size)
            self._tell(item, item.sha256)
            return True
        item.target.unlink()
        return False

    def _tell(self, item: Download, digest: str) -> None:
        with self._telling:
            self._fetched(item, digest)

    def _stream(self, item: Download) -> None:
        stream = _Stream(item, self._retries, self._advance, self._stop)
        self._tell(item, stream.fetch())

    def _piece(self, item: Download, pieces: Pieces, span: Span) -> None:
        try:
            if not pieces.are_void:
                self._fetch_piece(item, pieces, span)
        finally:
            last = pieces.leave()
        if last:
            self._end_pieces(item, pieces)

    def _fetch_piece(self, item: Download, pieces: Pieces, span: Span) -> None:
        attempts = Attempts(item.url, item.origin, self._retries, self._stop)
        with pieces.open(span) as piece:
            while piece.at < span.end and not pieces.are_void:
                attempts.check()
                before = piece.at
                try:
                    with open_url(
                        item.url, Span(piece.at, span.end), pieces.version, item.origin, item.access
                    ) as answer:
                        if not pieces.accept(answer, piece.at):
                            _refuse_change(item, answer)
                            return
                        while (count := piece.take(answer.body)) and not self._stop.is_set():
                            pieces.tell(count)
                    reason: Exception | str = "the connection ended early"
                except WORTH_ANOTHER as error:
                    reason = error
                if piece.at < span.end:
                    attempts.check()
                    attempts.fail(reason, brought=piece.at > before)

    def _end_pieces(self, item: Download, pieces: Pieces) -> None:
        if pieces.are_void:  # it changed, or its server knows no ranges: once more, in one piece
            pieces.forget()
            self._stream(item)
            return
        digest = pieces.digest()
        _verify(item, digest)
        self._tell(item, digest)


class _Stream:
    """An object that comes in one piece, from its start or from where it was left."""

    def __init__(self, item: Download, retries: int, advance: Advance, stop: threading.Event) -> None:
        self._item, self._retries, self._advance, self._stop = item, retries, advance, stop
        self._hash, self._hashed, self._looked = hashlib.sha256(), 0, 0
        if item.pieces.exists():
            _forget(item)  # pieces of what was to come in pieces are no start of it
        self._arrived = item.part.stat().st_size if item.part.exists() else 0
        if self._arrived and not (item.version_file.exists() or item.sha256):
            self._give_up()  # nobody could say whether the rest belongs to it

    def fetch(self) -> str:
        """Bring it to its target, verified; its sha256."""
        resumed = self._arrived > 0
        self._advance(self._arrived)
        self._fetch()
        if resumed and not self._item.version_file.exists() and self._digest() != self._item.sha256:
            # The server names no version, so the pieces may be of two: once more, in one piece.
            self._advance(-self._arrived)
            self._give_up()
            self._fetch()
        digest = self._digest()
        _verify(self._item, digest)
        return digest

    def _fetch(self) -> None:
        item = self._item
        attempts = Attempts(item.url, item.origin, self._retries, self._stop)
        while True:
            attempts.check()
            before = self._arrived
            try:
                if self._attempt():
                    return
                reason: Exception | str = "the connection ended early"
            except WORTH_ANOTHER as error:
                reason = error
            attempts.check()
            attempts.fail(reason, brought=self._arrived > before)

    def _attempt(self) -> bool:
        """Ask for what is missing and append it; whether the object is whole now."""
        item, start = self._item, self._arrived
        known = item.version_file.read_text() if start and item.version_file.exists() else ""
        version = item.version if item.is_pinned else known
        with open_url(item.url, Span(start), version, item.origin, item.access) as answer:
            if item.is_pinned and answer.version != item.version:
                _refuse_change(item, answer)
            if item.size >= 0 and answer.total not in (-1, item.size):
                _refuse_size(item, answer)
            if answer.start != start:  # a changed object, or a server that knows no ranges
                self._advance(-start)
                self._give_up()
            self._append(answer)
        return answer.total < 0 or self._arrived == answer.total

    def _append(self, answer: Answer) -> None:
        buffer = memoryview(bytearray(min(BLOCK, answer.total + 1) if answer.total >= 0 else BLOCK))
        if answer.version and answer.total != self._arrived and len(buffer) == BLOCK:
            self._item.version_file.write_text(answer.version)
        try:
            with self._item.part.open("ab", buffering=0) as file:
                while count := answer.body.readinto(buffer):
                    self._take(buffer[:count], file)
                    if self._stop.is_set():
                        return
        finally:
            # Of a small object only here: most come whole, and there are many.
            if answer.version and self._arrived not in (0, answer.total):
                self._item.version_file.write_text(answer.version)

    def _take(self, block: memoryview, file: io.FileIO) -> None:
        file.write(block)
        if self._hashed == self._arrived:
            self._hash.update(block)
            self._hashed += len(block)
        self._arrived += len(block)
        self._advance(len(block))
        self._check_end()

    def _check_end(self) -> None:
        """Stop what goes on past its size, or where nobody said one, until the disk is full."""
        item, room = self._item, -1
        if item.size < 0 and self._arrived >= self._looked + LOOKED_AFTER:
            self._looked, room = self._arrived, shutil.disk_usage(item.part.parent).free
        if 0 <= item.size < self._arrived or 0 <= room < LEAST_ROOM:
            self._give_up()
            past = (
                f"past the {item.size} bytes that are locked" if item.size >= 0 else "until the disk is full"
            )
            raise InputError(
                f"{item.origin}: {shown(item.url)}: it goes on {past}; what was fetched is removed. {item.remedy}"
            )

    def _digest(self) -> str:
        return self._hash.hexdigest() if self._hashed == self._arrived else sha256_of(self._item.part)

    def _give_up(self) -> None:
        _forget(self._item)
        self._hash, self._hashed, self._arrived = hashlib.sha256(), 0, 0


def _refuse_change(item: Download, answer: Answer) -> None:
    """Raise InputError where an object must be the one that was looked at, and is another."""
    if item.is_pinned and answer.version != item.version:
        raise InputError(
            f"{item.origin}: {shown(item.url)}: it was changed since it was looked at: its version is "
            f"{answer.version or 'not said'}, locked is {item.version}. {item.remedy}"
        )
    if answer.total >= 0 and item.size >= 0 and answer.total != item.size:
        _refuse_size(item, answer)


def _refuse_size(item: Download, answer: Answer) -> None:
    raise InputError(
        f"{item.origin}: {shown(item.url)}: it has {answer.total} bytes, locked are {item.size}. {item.remedy}"
    )


def _verify(item: Download, found: str) -> None:
    size = item.part.stat().st_size
    if item.size >= 0 and size != item.size and not item.sha256:
        _forget(item)
        raise InputError(
            f"{item.origin}: {shown(item.url)}: it has {size} bytes, locked are {item.size}; what was fetched is "
            f"removed. {item.remedy}"
        )
    if item.sha256 and found != item.sha256:
        with item.part.open("rb") as file:
            page = " (a web page, perhaps a login)" if file.read(100).lstrip().startswith(b"<") else ""
        _forget(item)
        raise OtherBytes(
            f"{item.origin}: {shown(item.url)}: its sha256 is {found}, declared is {item.sha256}; what was "
            f"fetched{page} is removed. {item.remedy}"
        )
    item.part.replace(item.target)
    item.version_file.unlink(missing_ok=True)
    item.pieces.unlink(missing_ok=True)


def _forget(item: Download) -> None:
    for file in (item.part, item.version_file, item.pieces):
        file.unlink(missing_ok=True)
