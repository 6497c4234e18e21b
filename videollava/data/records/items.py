"""JSON arrays and JSON lines, item by item: files of millions of records take the memory of a few.

Also what people make of them: an object that holds the list under a name such as "data", or the records by their ids,
objects printed over several lines without a list around them, UTF-16, byte order marks, a comma after a line, gzip and
its like.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from typing import IO, Any

from videollava.data.archives.compressed import find_opener
from videollava.data.archives.members import DAMAGED
from videollava.data.records.conversion import TURNS
from videollava.data.records.rejected import RecordError
from videollava.errors import InputError

__all__ = ["ABOUT", "is_annotations", "read_items"]

ENDINGS = (".json", ".jsonl", ".ndjson")
# What fetch writes beside a source's files, and what tells tools about a data set.
ABOUT = {"source.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
BLOCK = 1 << 20
HEAD = 1 << 16  # bytes that show what kind of file it is
LONGEST = 64 << 20  # bytes of one item
ASKED = ("question", "caption")  # what a record without turns has, under its id
LISTS = ("data", "annotations", "records", "samples", "items", "instances", "entries", "rows")
WIDE = {  # by their byte order mark; the longer ones first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def is_annotations(name: str) -> bool:
    """Whether a file of this name holds records: .json, .jsonl and the like, also compressed, but no tool's own."""
    plain = name.lower()
    if plain.rpartition("/")[2] in ABOUT:
        return False
    ending = next((end for end in COMPRESSED if plain.endswith(end)), "")
    return plain.removesuffix(ending).endswith(ENDINGS)


def read_items(stored: IO[bytes], name: str) -> Iterator[Any | RecordError]:
    """Items of a JSON array, of JSON lines, or of the list in an object; a malformed line comes as a RecordError.

    An array that is broken in the middle has no next item to go on with: InputError names the place.
    """
    file = _Joined(b"", stored, name)
    head = file.read(HEAD) or b""
    if opener := find_opener(head):
        file = _Joined(b"", opener(io.BufferedReader(_Joined(head, file, name))), name)
        head = file.read(HEAD) or b""
    encoding = next((wide for mark, wide in WIDE.items() if head.startswith(mark)), "")
    if not encoding and head[:4].count(0) == 2:  # "[" or "{" and what follows, in two bytes each
        encoding = "utf-16-be" if head[0] == 0 else "utf-16-le"
    raw: io.RawIOBase = _Joined(head, file, name)
    if encoding:
        raw = _AsUtf8(raw, encoding, name)
        head = raw.read(HEAD)
        raw = _Joined(head, raw, name)
    stream = io.BufferedReader(raw, 1 << 16)
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"["):
        yield from _Cursor(stream, name).array()
    elif start.startswith(b"{") and (kind := _kind_of(start.decode("utf-8", "replace"))) != "lines":
        cursor = _Cursor(stream, name)
        ways = {"object": cursor.listed, "keyed": cursor.keyed, "values": cursor.values}
        yield from ways[kind]()
    elif start:
        yield from _read_lines(stream, name)


def _kind_of(text: str) -> str:
    """What begins with "{": JSON "lines", an "object" that holds a list, one of records "keyed" by their ids, or
    "values" printed over several lines.
    """
    first = text.split("\n", 1)[0]
    for part in (first, text):
        try:
            value, end = json.JSONDecoder().raw_decode(part)
        except (ValueError, RecursionError):
            continue
        if any(isinstance(value.get(key), list) for key in LISTS) and not any(key in value for key in TURNS):
            return "object"
        if value and all(_is_record(held) for held in value.values()):
            return "keyed"
        return "lines" if part is first or "\n" not in text[:end] else "values"
    if _is_object(text.partition("\n")[2].split("\n", 1)[0]):
        return "lines"  # the first is a broken one
    return _kind_by_keys(text, one_line="\n" not in text)


def _is_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(json.loads(line.rstrip().rstrip(",")), dict)
    except (ValueError, RecursionError):
        return False


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and (
        any(isinstance(value.get(key), list) for key in TURNS) or any(key in value for key in ASKED)
    )


def _kind_by_keys(text: str, *, one_line: bool) -> str:
    """The same of an object that is longer than the text, by its first keys."""
    decoder, position = json.JSONDecoder(), 1
    try:
        while True:
            key, position = decoder.raw_decode(text, _skip(text, position))
            position = _skip(text, text.index(":", position) + 1)
            if key in TURNS:
                break
            if key in LISTS and text[position] == "[":
                return "object"
            value, position = decoder.raw_decode(text, position)
            if _is_record(value):
                return "keyed"
    except (ValueError, IndexError, RecursionError) as error:
        # Ended within a value: a long object. Broken before that: a broken line, and the others count.
        if isinstance(error, json.JSONDecodeError) and error.pos < len(text) - 16:
            return "lines"
    return "lines" if one_line else "values"


class _Joined(io.RawIOBase):
    """What has been read of a file already, and the rest; InputError where that is damaged."""

    def __init__(self, head: bytes, rest: Any, name: str) -> None:
        self._head, self._rest, self._name = head, rest, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        try:
            data = data or self._rest.read(len(buffer))
        except InputError:
            raise
        except DAMAGED as error:
            raise InputError(
                f"{self._name}: cannot be read to its end ({error}); fetch or pack it again"
            ) from error
        buffer[: len(data)] = data
        return len(data)


class _AsUtf8(io.RawIOBase):
    """A file in another encoding, as UTF-8."""

    def __init__(self, file: io.RawIOBase, encoding: str, name: str) -> None:
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder(encoding)("strict")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._file.read(HEAD)
            try:
                self._ready = self._decoder.decode(data or b"", final=not data).encode()
            except UnicodeError as error:
                raise InputError(f"{self._name}: not valid UTF-16: {error}; save it as UTF-8") from error
            if not data:
                break
        data, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _read_lines(file: IO[bytes], name: str) -> Iterator[Any | RecordError]:
    number = 0
    while line := file.readline(LONGEST):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) >= LONGEST and not line.endswith(b"\n"):
            while rest := file.readline(LONGEST):
                if rest.endswith(b"\n"):
                    break
            yield RecordError("malformed line", f"{name}: line {number}: longer than {LONGEST} bytes")
        elif line.strip():
            yield _read_line(line, f"{name}: line {number}")


def _read_line(line: bytes, place: str) -> Any | RecordError:
    try:
        try:
            return json.loads(line)
        except ValueError:
            if not line.rstrip().endswith(b","):
                raise
            return json.loads(line.rstrip()[:-1])  # cut out of an array
    except (ValueError, RecursionError) as error:
        return RecordError("malformed line", f"{place}: not JSON: {error}; correct or remove it")


class _Cursor:
    """A place in a JSON text that is read as far as it is needed."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name
        # Bytes that aren't UTF-8 become lone surrogates, for which the one record is then rejected.
        self._text = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._decoder = json.JSONDecoder()
        self._buffer, self._position, self._ended = "", 0, False
        self._line, self._done = 1, 0

    def array(self) -> Iterator[Any]:
        """Items of the array that begins here."""
        yield from self._list()
        # `cat a.json b.json`: what follows is no less meant.
        while self._peek():
            yield from self._list()

    def _list(self) -> Iterator[Any]:
        self._expect("[")
        while self._peek() != "]":
            yield self._value()
            self._done += 1
        self._position += 1

    def values(self) -> Iterator[Any]:
        """Values one after the other, to the end of the file."""
        while self._peek():
            yield self._value()
            self._done += 1

    def listed(self) -> Iterator[Any]:
        """Items of the list that the object which begins here holds; InputError where it holds two."""
        self._expect("{")
        chosen = ""
        while self._peek() != "}":
            key = self._value()
            self._expect(":")
            if key not in LISTS or self._peek() != "[":
                self._value()
                continue
            before = self._done
            for item in self._list():
                if chosen:
                    raise InputError(
                        f"{self._name}: holds two lists, {chosen!r} and {key!r}; keep the one that holds the records"
                    )
                yield item
            chosen = key if self._done > before else chosen
        self._end()

    def keyed(self) -> Iterator[Any]:
        """Values of the object that begins here, each with its key for an id."""
        self._expect("{")
        while self._peek() != "}":
            key = self._value()
            self._expect(":")
            item = self._value()
            yield {"id": key, **item} if isinstance(item, dict) else item
            self._done += 1
        self._end()

    def _end(self) -> None:
        self._position += 1
        if self._peek():
            raise self._broken("something follows its end", self._position)

    def _expect(self, mark: str) -> None:
        if self._peek() != mark:
            raise self._broken(f"{mark!r} expected", self._position)
        self._position += 1

    def _peek(self) -> str:
        """The next character that says something; "" at the end."""
        while True:
            self._position = _skip(self._buffer, self._position)
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if self._ended:
                return ""
            self._fill(BLOCK)

    def _value(self) -> Any:
        block = BLOCK
        self._peek()
        while True:
            try:
                item, end = self._decoder.raw_decode(self._buffer, self._position)
            except (ValueError, RecursionError) as error:
                size = len(self._buffer)
                if self._ended or size - self._position > LONGEST or _is_certain(error, size):
                    raise self._broken(str(error), getattr(error, "pos", self._position)) from error
            else:
                # A number may go on in what has not been read.
                if self._ended or end < len(self._buffer) or not isinstance(item, int | float):
                    self._position = end
                    return item
            self._fill(block)
            block *= 2  # a long item is tried again at doubling lengths, not at every block

    def _fill(self, size: int) -> None:
        data = self._file.read(size)
        self._ended = not data
        self._line += self._buffer.count("\n", 0, self._position)
        self._buffer = self._buffer[self._position :] + self._text.decode(data, final=self._ended)
        self._position = 0

    def _broken(self, reason: str, position: int) -> InputError:
        line = self._line + self._buffer.count("\n", 0, position)
        before = self._buffer[:position].rstrip()
        hint = ", after a comma too many" if before.endswith(",") and "property name" in reason else ""
        return InputError(
            f"{self._name}: line {line}: item {self._done} of the list is not JSON: {reason.split(':')[0]}{hint}; "
            "correct the file, or write one record a line (.jsonl), where one bad line costs one record"
        )


def _skip(buffer: str, position: int) -> int:
    while position < len(buffer) and buffer[position] in " \n\r\t,":
        position += 1
    return position


def _is_certain(error: ValueError | RecursionError, length: int) -> bool:
    """Whether more text could not mend the error: it lies well before what has been read."""
    if not isinstance(error, json.JSONDecodeError):
        return True
    return error.pos < length - 16 and not error.msg.startswith("Unterminated string")
