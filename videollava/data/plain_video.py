"""Frames of plain files by decord, the decoder of the original.

Plain is 8-bit H.264 that shows every picture it holds and whose key frames are all IDR pictures, where decoding can
begin. decord 0.6 counts hidden pictures too, and after a seek gives other pictures of MPEG-4, of 10-bit H.264 and of
streams that refresh without IDR pictures: it gets none of these. Where it is missing, fails, or has other times than
the packets (`video` has read them by then), PyAV reads the file. On plain files both give the same numbers
(tests/data/test_video.py).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_idr", "is_plain", "read_plain"]

CODEC, PIXELS = "h264", "yuv420p"
AVCC = 1  # first byte of H.264's parameters where each unit of a packet begins with its length
IDR = 5
APART = 1e-3  # seconds: times are float32 there


def is_plain(codec: Any) -> bool:
    """Whether decord reads this codec context's pictures right, if all of them are shown and all keys are IDR."""
    header = codec.extradata or b""
    return codec.name == CODEC and codec.pix_fmt == PIXELS and len(header) > 4 and header[0] == AVCC


def is_idr(packet: bytes, header: bytes) -> bool:
    """Whether an H.264 packet (units with their lengths before them) holds an IDR picture.

    header: the codec's parameters; its fifth byte tells how long a length is (ISO/IEC 14496-15, 5.3.3.1).
    """
    size, at = (header[4] & 3) + 1, 0
    while at + size < len(packet):
        if packet[at + size] & 31 == IDR:
            return True
        at += size + int.from_bytes(packet[at : at + size])
    return False


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
