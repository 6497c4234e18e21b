"""An object that comes in pieces, side by side, into one file; which of them are there outlives a kill and a crash."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from videollava.data.acquire.replies import Answer, Body, Span

__all__ = ["Piece", "Pieces", "Wanted", "comes_in_pieces"]

PIECE = 16 << 20  # bytes; what a kill loses of each connection, at most
BLOCK = 1 << 18
Advance = Callable[[int], None]


class Wanted(Protocol):
    """What pieces are told of their object."""

    @property
    def part(self) -> Path: ...
    @property
    def pieces(self) -> Path: ...
    @property
    def version_file(self) -> Path: ...
    @property
    def size(self) -> int: ...
    @property
    def version(self) -> str: ...


def comes_in_pieces(size: int) -> bool:
    """Whether an object of so many bytes is large enough for it."""
    return size >= 2 * PIECE


class Piece:
    """A piece that is coming: `at` is where its next byte belongs."""

    def __init__(self, file: int, span: Span) -> None:
        self.at, self.crc = span.start, 0
        self._file, self._end = file, span.end
        self._buffer = memoryview(bytearray(BLOCK))

    def take(self, body: Body) -> int:
        """Write what comes next to its place; 0 where nothing more does, or the piece is whole."""
        room = min(BLOCK, self._end - self.at)
        count = body.readinto(self._buffer[:room]) if room else 0
        block = self._buffer[:count]
        written = 0
        while written < count:
            written += os.pwrite(self._file, block[written:], self.at + written)
        self.crc = zlib.crc32(block, self.crc)
        self.at += count
        return count


class Pieces:
    """Which pieces of an object are there, and its sha256 as far as they follow one another.

    `version`: of which version they are, "" until the first answer said it. `are_void`: they belong to several, or
    cannot be had alone.
    """

    def __init__(self, item: Wanted, advance: Advance) -> None:
        self._item, self._advance = item, advance
        self._lock, self._hashing = threading.Lock(), threading.Lock()
        self._hash, self._hashed = hashlib.sha256(), 0
        self.are_void = False
        self._done = self._read_done()
        self.version = item.version
        if self._done:
            self.version = item.version_file.read_text() if item.version_file.exists() else ""
        if self._done and item.version and self.version != item.version:
            self._done = {}
            self.version = item.version
        if not self._done:
            self.forget()
            item.pieces.touch()  # before the file: without it that would be taken for the object's start
            if self.version:
                item.version_file.write_text(self.version)
        item.part.touch()
        self._left = self._told = 0
        self.tell(sum(end - start for start, end in self._done.items()))

    def tell(self, count: int) -> None:
        """Bytes have arrived."""
        with self._lock:
            self._told += count
        self._advance(count)

    def missing(self) -> list[Span]:
        """What is still to be fetched; each of them ends with `leave`."""
        starts = range(0, self._item.size, PIECE)
        spans = [Span(start, min(start + PIECE, self._item.size)) for start in starts]
        left = [span for span in spans if self._done.get(span.start) != span.end]
        self._left = len(left)
        return left

    @contextmanager
    def open(self, span: Span) -> Iterator[Piece]:
        """A piece to write; once it is whole it is noted."""
        with self._item.part.open("r+b", buffering=0) as file:
            piece = Piece(file.fileno(), span)
            yield piece
        if piece.at == span.end and not self.are_void:
            with self._lock:
                self._done[span.start] = span.end
                with self._item.pieces.open("a") as journal:
                    journal.write(f"{span.start} {span.end} {piece.crc}\n")
            if self._hashing.acquire(blocking=False):
                try:
                    self._hash_on()
                finally:
                    self._hashing.release()

    def accept(self, answer: Answer, start: int) -> bool:
        """Whether an answer is what was asked for and of the same version as the others; else all are void."""
        with self._lock:
            if not self.version and answer.version:
                self.version = answer.version
                self._item.version_file.write_text(answer.version)
            if (
                answer.start != start
                or answer.version != self.version
                or answer.total not in (-1, self._item.size)
            ):
                self.are_void = True
            return not self.are_void

    def leave(self) -> bool:
        """Say that a piece is done with; whether it was the last."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                return True
        return False

    def digest(self) -> str:
        """The sha256 of the whole, in hex."""
        with self._hashing:
            self._hash_on()
        return self._hash.hexdigest()

    def forget(self) -> None:
        """Remove what has arrived."""
        if self.are_void:
            self.tell(-self._told)
        self._done = {}
        for file in (self._item.part, self._item.version_file, self._item.pieces):
            file.unlink(missing_ok=True)

    def _hash_on(self) -> None:
        buffer = memoryview(bytearray(BLOCK))
        with self._item.part.open("rb", buffering=0) as file:
            while (end := self._done.get(self._hashed)) is not None:
                while self._hashed < end:
                    file.seek(self._hashed)
                    count = file.readinto(buffer[: min(BLOCK, end - self._hashed)])
                    if not count:
                        return
                    self._hash.update(buffer[:count])
                    self._hashed += count

    def _read_done(self) -> dict[int, int]:
        """Pieces that were noted, and are in the file as they were noted: a crash may have lost their blocks."""
        done: dict[int, int] = {}
        if not (self._item.pieces.exists() and self._item.part.exists()):
            return done
        with self._item.part.open("rb", buffering=0) as file:
            for line in self._item.pieces.read_text(errors="replace").splitlines():
                numbers = line.split()
                if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
                    continue  # cut by a crash
                start, end, crc = map(int, numbers)
                if start % PIECE == 0 and end == min(start + PIECE, self._item.size):
                    file.seek(start)
                    if _crc(file.fileno(), start, end) == crc:
                        done[start] = end
        return done


def _crc(file: int, start: int, end: int) -> int:
    crc = 0
    while start < end:
        block = os.pread(file, min(BLOCK, end - start), start)
        if not block:
            return -1
        crc = zlib.crc32(block, crc)
        start += len(block)
    return crc
