"""What a container promises: that it is all there, that its pictures lie in it, that nothing is locked.

Only headers are walked. FFmpeg reads a file that was cut short, or whose pictures lie elsewhere, as far as it
goes and says nothing; a player says so, and so does this.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from videollava.data.media.admission.containers import (
    AVI,
    FLASH,
    GIF,
    HEAD,
    ISO,
    MATROSKA,
    WAVE,
    WINDOWS_MEDIA,
    Container,
    NotAdmitted,
)

__all__ = ["check_layout"]

MOST_HEADER = 256 << 20  # bytes of a movie's header: an hour has a few MiB
MOST_BOXES = 100_000
ODD = 16  # bytes by which writers of AVI misjudge their own size
_FETCH = "download or copy it again"
_ENCODE = "re-encode it as H.264 mp4"
_NESTED = {b"moov", b"trak", b"mdia", b"minf", b"dinf", b"edts", b"stbl"}
_SPEED = struct.Struct(">h")

Box = tuple[bytes, int, int]  # type, where its content starts, where it ends


def check_layout(container: Container, file: BinaryIO) -> None:
    """NotAdmitted where the file holds less than it promises; leaves the file at its start."""
    check = _CHECKS.get(container)
    if check is not None:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        check(file, size)
    file.seek(0)


def _check_iso(file: BinaryIO, size: int) -> None:
    movie, fragmented, end = None, False, 0
    for kind, start, stop in _boxes(file, 0, size):
        end = stop
        fragmented = fragmented or kind == b"moof"
        if kind == b"moov" and movie is None:
            movie = (start, stop)
    if movie is None or movie[1] > size:
        raise NotAdmitted("cut short: its header (moov) is missing", _FETCH)
    if fragmented and end > size:
        raise NotAdmitted(f"cut short: {end - size} bytes are missing", _FETCH)
    if movie[1] - movie[0] > MOST_HEADER:
        raise NotAdmitted(f"its header takes {movie[1] - movie[0]} bytes", _ENCODE)
    file.seek(movie[0])
    _check_movie(file.read(movie[1] - movie[0]), fragmented)


def _check_movie(header: bytes, fragmented: bool) -> None:
    file = io.BytesIO(header)
    for kind, start, stop in _boxes(file, 0, len(header)):
        if kind == b"rmra":
            raise NotAdmitted("its pictures lie in other files (a reference movie)", "join them into one mp4")
        if kind == b"trak":
            _check_track(header[start:stop], fragmented)


def _check_track(track: bytes, fragmented: bool) -> None:
    """Tracks of pictures and sound; what others refer to is never read."""
    found = {kind: track[start:stop] for kind, start, stop in _inside(track)}
    if found.get(b"hdlr", b"")[8:12] not in (b"vide", b"soun"):
        return
    if any(_points_elsewhere(kind, body) for kind, body in _entries(found.get(b"dref", b""))):
        raise NotAdmitted("its pictures or sound lie in another file", "join them into one mp4")
    if any(kind in (b"encv", b"enca", b"drmi", b"drms") for kind, _ in _entries(found.get(b"stsd", b""))):
        raise NotAdmitted("it is encrypted", "give a copy without protection")
    if found[b"hdlr"][8:12] == b"vide":
        _check_pictures(found, fragmented)


def _check_pictures(found: dict[bytes, bytes], fragmented: bool) -> None:
    speeds = list(_speeds(found.get(b"elst", b"")))
    if any(speed != 1 for speed in speeds):
        raise NotAdmitted("it shows a part at another speed or standing still (edit list)", _ENCODE)
    if fragmented and len(speeds) > 1:  # of fragments FFmpeg knows where to begin, no more
        raise NotAdmitted("it shows several parts of its fragments (edit list)", _ENCODE)
    times, sizes = found.get(b"stts", b""), found.get(b"stsz", b"")
    counted = sum(int.from_bytes(times[at : at + 4], "big") for at in range(8, len(times) - 7, 8))
    sized = int.from_bytes(sizes[8:12], "big")
    if times and sizes and counted != sized:
        raise NotAdmitted(f"its header counts {counted} frames in one place and {sized} in another", _ENCODE)


def _inside(track: bytes) -> Iterator[Box]:
    """The boxes of a track that hold no others, wherever they are nested; the first of a kind comes last."""
    waiting = [(0, len(track))]
    leaves: list[Box] = []
    file = io.BytesIO(track)
    while waiting:
        for kind, start, stop in _boxes(file, *waiting.pop()):
            if kind in _NESTED:
                waiting.append((start, min(stop, len(track))))
            else:
                leaves.append((kind, start, stop))
    return reversed(leaves)


def _entries(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of what a full box with a count (dref, stsd) lists."""
    for kind, start, stop in _boxes(io.BytesIO(body), 8, len(body)):
        yield kind, body[start:stop]


def _points_elsewhere(kind: bytes, body: bytes) -> bool:
    """Entries without the flag of "in this file" that name one."""
    return kind in (b"url ", b"urn ", b"alis", b"rsrc", b"imdt") and body[3:4] != b"\x01" and len(body) > 4


def _speeds(edits: bytes) -> Iterator[int]:
    """media_rate_integer of every edit that shows something."""
    wide = edits[:1] == b"\x01"
    width = 20 if wide else 12
    for at in range(8, len(edits) - width + 1, width):
        begins = int.from_bytes(edits[at + width // 2 - 2 : at + width - 4], "big", signed=True)
        if begins >= 0:
            yield _SPEED.unpack_from(edits, at + width - 4)[0]


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[Box]:
    """The boxes between two places of a file; the last may end beyond."""
    for _ in range(MOST_BOXES):
        if start + 8 > stop:
            return
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            return
        size, content = int.from_bytes(head[:4], "big"), start + 8
        if size == 1 and len(head) == 16:
            size, content = int.from_bytes(head[8:], "big"), start + 16
        elif size == 0:
            size = stop - start
        if size < content - start:
            return
        yield head[4:8], content, start + size
        start += size


def _check_matroska(file: BinaryIO, size: int) -> None:
    """The segment is as long as it says (recorders that write to a pipe say nothing)."""
    place = _skip_element(file, 0)
    while place is not None and place + 5 < size:
        file.seek(place)
        number, length, content = _element(file.read(12))
        if number == 0x18538067:
            missing = 0 if length is None else place + content + length - size
            if missing > 0:
                raise NotAdmitted(f"cut short: {missing} bytes are missing", _FETCH)
            return
        place = None if length is None else place + content + length


def _skip_element(file: BinaryIO, place: int) -> int | None:
    file.seek(place)
    _, length, content = _element(file.read(12))
    return None if length is None else place + content + length


def _element(head: bytes) -> tuple[int, int | None, int]:
    """An EBML element's number, its length (None: unknown) and the bytes that both take."""
    if len(head) < 2 or not head[0]:
        return 0, None, 0
    first = 9 - head[0].bit_length()
    number = int.from_bytes(head[:first], "big")
    if len(head) <= first or not head[first]:
        return number, None, first
    width = 9 - head[first].bit_length()
    length = int.from_bytes(head[first : first + width], "big") & ((1 << 7 * width) - 1)
    return number, None if length == (1 << 7 * width) - 1 else length, first + width


def _check_riff(file: BinaryIO, size: int) -> None:
    """Every RIFF part is as long as it says (0 or all ones: the recorder never came to write it)."""
    place = 0
    for _ in range(MOST_BOXES):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":
            return
        length = int.from_bytes(head[4:], "little")
        if length in (0, 0xFFFFFFFF):
            return
        if place + 8 + length > size + ODD:
            raise NotAdmitted(f"cut short: {place + 8 + length - size} bytes are missing", _FETCH)
        place += 8 + length + length % 2


def _check_flash(file: BinaryIO, size: int) -> None:
    """The last tag is whole, and the file as long as its own description says."""
    head = file.read(HEAD)
    place, said = 9 + 4, head.find(b"\x00\x08filesize\x00")
    promised = struct.unpack_from(">d", head, said + 11)[0] if 0 <= said < len(head) - 19 else 0.0
    while place + 11 <= size:
        file.seek(place)
        place += 11 + int.from_bytes(file.read(11)[1:4], "big") + 4
    missing = max(promised, place - 4) - size
    if 0 < missing < float("inf"):
        raise NotAdmitted(f"cut short: {missing:.0f} bytes are missing", _FETCH)


def _check_windows_media(file: BinaryIO, size: int) -> None:
    """The file is as long as its properties say, unless it is a broadcast."""
    head = file.read(HEAD)
    place = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    if 0 <= place < len(head) - 92 and not head[place + 88] & 1:
        missing = int.from_bytes(head[place + 40 : place + 48], "little") - size
        if missing > 0:
            raise NotAdmitted(f"cut short: {missing} bytes are missing", _FETCH)


def _check_gif(file: BinaryIO, size: int) -> None:
    """No block reaches beyond the end (many lack the byte that ends them)."""
    data = file.read(MOST_HEADER)
    place = 13 + _palette(data[10]) if len(data) > 12 else size + 1
    while place < len(data) and data[place] in b"!,":
        if data[place] == 0x21:
            place += 2
        else:
            place += 11 + (_palette(data[place + 9]) if place + 9 < len(data) else 0)
        while place < len(data) and data[place]:
            place += data[place] + 1
        place += 1
    if place > size:
        raise NotAdmitted("cut short: its last picture is not whole", _FETCH)


def _palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


_CHECKS: dict[Container, Callable[[BinaryIO, int], None]] = {
    ISO: _check_iso,
    MATROSKA: _check_matroska,
    AVI: _check_riff,
    WAVE: _check_riff,
    FLASH: _check_flash,
    WINDOWS_MEDIA: _check_windows_media,
    GIF: _check_gif,
}
