"""JSON arrays and JSON lines, item by item: files of millions of records take the memory of a few."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any

from videollava.data.records import RecordError
from videollava.errors import InputError

__all__ = ["read_items"]

BLOCK = 1 << 20
LONGEST = 64 << 20  # bytes of one item


def read_items(file: IO[bytes], name: str) -> Iterator[Any | RecordError]:
    """Items of a JSON array or of JSON lines; a malformed line comes out as a RecordError.

    An array that is broken in the middle has no next item to go on with: InputError names the place.
    """
    start = file.read(1)
    while start in (b" ", b"\n", b"\r", b"\t", b"\xef", b"\xbb", b"\xbf"):
        start = file.read(1)
    if start == b"[":
        yield from _read_array(file, name)
    elif start:
        yield from _read_lines(file, name, start)


def _read_lines(file: IO[bytes], name: str, start: bytes) -> Iterator[Any | RecordError]:
    number = 0
    while line := start + file.readline(LONGEST):
        start = b""
        number += 1
        if len(line) >= LONGEST and not line.endswith(b"\n"):
            while rest := file.readline(LONGEST):
                if rest.endswith(b"\n"):
                    break
            yield RecordError("malformed line", f"{name}: line {number}: longer than {LONGEST} bytes")
        elif line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                text = f"{name}: line {number}: not JSON: {error}; correct or remove it"
                yield RecordError("malformed line", text)


def _read_array(file: IO[bytes], name: str) -> Iterator[Any]:
    # Bytes that aren't UTF-8 become lone surrogates, for which the one record is then rejected.
    decoder, text = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("surrogateescape")
    buffer, position, done, block = "", 0, 0, BLOCK
    ended = False
    while True:
        position = _skip(buffer, position)
        if position < len(buffer) and buffer[position] == "]":
            return
        try:
            item, position = decoder.raw_decode(buffer, position)
        except (json.JSONDecodeError, RecursionError) as error:
            if ended or len(buffer) - position > LONGEST or _is_certain(error, len(buffer)):
                raise InputError(
                    f"{name}: item {done} of the array is not JSON: {error}; correct the file, "
                    "or write one record a line (.jsonl), where one bad line costs one record"
                ) from error
            data = file.read(block)
            block *= 2  # a long item is tried again at doubling lengths, not at every block
            ended = not data
            buffer, position = buffer[position:] + text.decode(data, final=ended), 0
        else:
            yield item
            done, block = done + 1, BLOCK


def _skip(buffer: str, position: int) -> int:
    while position < len(buffer) and buffer[position] in " \n\r\t,":
        position += 1
    return position


def _is_certain(error: json.JSONDecodeError | RecursionError, length: int) -> bool:
    """Whether more text could not mend the error: it lies well before what has been read."""
    if isinstance(error, RecursionError):
        return True
    return error.pos < length - 16 and not error.msg.startswith("Unterminated string")
