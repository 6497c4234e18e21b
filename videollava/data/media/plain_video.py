"""Frames of plain files by decord, the decoder of the original.

Plain is progressive 8-bit H.264 of whole pictures, in an MP4 without fragments or in Matroska, that shows every
picture it holds, whose key frames are all IDR pictures, where decoding can begin, and whose one sequence header holds
from start to end. decord 0.6 counts hidden pictures too; after a seek it gives other pictures of MPEG-4, of 10-bit
H.264, of fragments and of streams that refresh without IDR pictures; it gives the last picture of Flash files
wrongly, other colours of interlaced pictures, and the wrong part of pictures cut at the left or at the top: it gets
none of these. Where it is missing, fails, or has other times than the packets (`video` has read them by then), PyAV
reads the file. On plain files both give the same numbers (its test), unless the stream is damaged:
each conceals that in its own way.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_plain", "keeps_plain", "read_plain"]

CODEC, PIXELS = "h264", "yuv420p"
AVCC = 1  # first byte of H.264's parameters where each unit of a packet begins with its length
IDR, SEQUENCE = 5, 7  # kinds of units
_WITH_CHROMA = {44, 83, 86, 100, 110, 118, 122, 128, 244}  # profiles whose sequence headers tell of it
YCGCO = 8  # colours for which there is no conversion here
APART = 1e-3  # seconds: times are float32 there


def is_plain(codec: Any) -> bool:
    """Whether decord reads this codec context's pictures right, if all of them are shown and `keeps_plain` holds."""
    header = codec.extradata or b""
    known = codec.name == CODEC and codec.pix_fmt == PIXELS and codec.colorspace != YCGCO
    if not known or len(header) < 9 or header[0] != AVCC or header[5] & 31 != 1:
        return False
    try:
        return _is_simple(header[8 : 8 + int.from_bytes(header[6:8])])
    except ValueError:
        return False


def keeps_plain(packet: bytes, header: bytes, is_key: bool) -> bool:
    """Whether an H.264 packet (units with their lengths before them) is an IDR picture, if a key frame, and brings
    no other sequence header.

    header: the codec's parameters; its fifth byte tells how long a length is (ISO/IEC 14496-15, 5.3.3.1).
    """
    size, at, begins = (header[4] & 3) + 1, 0, not is_key
    while at + size < len(packet):
        begins_at, length = at + size, int.from_bytes(packet[at : at + size])
        kind = packet[begins_at] & 31
        if kind == SEQUENCE and packet[begins_at : begins_at + length] not in header:
            return False
        begins = begins or kind == IDR
        at = begins_at + length
    return begins


def _is_simple(sequence: bytes) -> bool:
    """Whether a sequence header (ISO/IEC 14496-10, 7.3.2.1.1) allows whole frames alone and cuts nothing off at the
    left or at the top; ValueError where it ends too early.
    """
    bits = _Bits(sequence[4:].replace(b"\0\0\3", b"\0\0"))
    bits.number()
    if sequence[1] in _WITH_CHROMA:
        for _ in range(3):  # 4:2:0 and 8 bits, as the pixels are: no more fields
            bits.number()
        bits.read(1)
        if bits.read(1):  # scaling matrices, which few write: not followed
            return False
    bits.number()
    order = bits.number()
    if order == 1:  # nor this order of pictures
        return False
    if order == 0:
        bits.number()
    bits.number()
    bits.read(1)
    bits.number()
    bits.number()
    if not bits.read(1):  # fields
        return False
    bits.read(1)
    if not bits.read(1):
        return True
    left, _, top = bits.number(), bits.number(), bits.number()
    return not left and not top


class _Bits:
    """Numbers one after the other, as H.264's headers hold them."""

    def __init__(self, data: bytes) -> None:
        self._left = "".join(f"{byte:08b}" for byte in data)

    def read(self, count: int) -> int:
        taken, self._left = self._left[:count], self._left[count:]
        return int(taken, 2)  # a ValueError where none are left

    def number(self) -> int:
        """An Exp-Golomb code."""
        zeros = self._left.find("1")
        self._left = self._left[max(0, zeros) :]
        return self.read(zeros + 1) - 1


def read_plain(file: BinaryIO, seconds: Sequence[float], chosen: Sequence[int]) -> NDArray[np.uint8] | None:
    """The chosen pictures, uint8 (T, H, W, 3); None where PyAV should read them.

    seconds: when each picture is shown, from the packets.
    """
    try:
        import decord
    except ImportError:
        return None
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(_source(file), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != len(seconds) or not _agree(reader, seconds, chosen):
            return None
        frames: NDArray[np.uint8] = reader.get_batch(list(chosen)).asnumpy()
        return frames
    except (decord.DECORDError, RuntimeError, OSError, ValueError):  # PyAV says why, if it cannot either
        return None


def _source(file: BinaryIO) -> Any:
    """By name where that is plain too: from an open file decord would read all of it into memory."""
    name = getattr(file, "name", "")
    if isinstance(name, str) and Path(name).is_absolute():
        return name
    file.seek(0)
    return io.BytesIO(file.read())


def _agree(reader: Any, seconds: Sequence[float], chosen: Sequence[int]) -> bool:
    """Whether each chosen picture is shown when its packet says, counted from the first picture."""
    places = [0, *chosen]
    times = np.asarray(reader.get_frame_timestamp(places))[:, 0]
    wanted = np.array([seconds[place] for place in places])
    return bool(np.all(np.abs((times - times[0]) - (wanted - wanted[0])) < APART))
