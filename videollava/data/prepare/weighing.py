"""What clips take as frames, and how fast they are read, measured on a few of them before a shard is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from videollava.data.archives.listing import DAMAGED, Member, read_member
from videollava.data.media.stored import StoredFrames
from videollava.data.pool import Pool
from videollava.data.prepare.writing import take_frames
from videollava.errors import InputError
from videollava.params import Frames

__all__ = ["Weighed", "tell_weight", "weigh"]

MEASURED = 8  # clips, spread over the source
ROUNDS = 3
UNREADABLE: tuple[type[Exception], ...] = (*DAMAGED, InputError)
SAYS = {
    "exact": "the very numbers that decoding gives",
    "rounded": "off by half a level of 255 at most, by nothing where a clip has the size already",
}


@dataclass(frozen=True, slots=True)
class Clip:
    """One that was measured: bytes of its frames, seconds to decode it and to read its frames."""

    size: int
    decoding: float
    reading: float


@dataclass(frozen=True, slots=True)
class Weighed:
    """A source's clips: how many, bytes of their files, and those of them that were measured.

    lost: how many of those that were tried can't be decoded.
    """

    clips: int
    files: int
    measured: Sequence[Clip]
    lost: int = 0

    @property
    def least(self) -> int:
        """Bytes of all as frames, were each as small as the smallest."""
        return self.clips * min((clip.size for clip in self.measured), default=0)

    @property
    def most(self) -> int:
        """Bytes of all as frames, were each as large as the largest; of their files where none can be decoded."""
        if not self.measured:
            return self.files
        return self.clips * max(clip.size for clip in self.measured)


def weigh(clips: Sequence[Member], frames: Frames, pool: Pool) -> Weighed:
    """Store and read some of the clips, one at a time; those that can't be decoded are not among the measured."""
    chosen = [clips[len(clips) * place // MEASURED] for place in range(MEASURED)] if clips else []
    tried = list(
        pool.stream(partial(_measure, frames), dict.fromkeys(chosen), crashed=lambda clip: None, window=1)
    )
    measured = [clip for clip in tried if clip is not None]
    return Weighed(len(clips), sum(clip.size for clip in clips), measured, len(tried) - len(measured))


def tell_weight(source: str, weighed: Weighed, frames: Frames) -> str:
    """One line: disk as files and as frames, and the time of reading a clip."""
    asked = f"{frames.count} frames of {frames.size} x {frames.size}, {frames.form}"
    if not weighed.clips:
        return f"{source}: no clips to store as {asked}"
    begun = f"{source}: {weighed.clips:,} clips, {_amount(weighed.files)} as they are; as {asked}: "
    if not weighed.measured:
        return f"{begun}unknown, none of the few that were tried can be decoded"
    decoding = median(clip.decoding for clip in weighed.measured) * 1000
    reading = median(clip.reading for clip in weighed.measured) * 1000
    faster = (
        f"{decoding / reading:.0f} times faster" if decoding >= 1.5 * reading else "hardly faster, if at all"
    )
    lost = f", {weighed.lost} more can't be decoded" if weighed.lost else ""
    return (
        f"{begun}{_range(weighed.least, weighed.most)}, read in {reading:.1f} ms a clip and not in {decoding:.1f} "
        f"({faster}; {len(weighed.measured)} clips measured here{lost}); {SAYS[frames.form]}"
    )


def _measure(frames: Frames, clip: Member) -> Clip | None:
    try:
        data = take_frames(clip, "", frames)  # the first call of a process also loads libraries
        stored = StoredFrames(data)
        reading = _best(lambda: stored.pixels(frames.size, frames.count))
        return Clip(len(data), _best(partial(_decode, read_member(clip), frames)), reading)
    except UNREADABLE:
        return None


def _decode(data: bytes, frames: Frames) -> object:
    from videollava.data.media.read import load_pixels

    return load_pixels("video", data, frames.size, frames.count)


def _best(call: Callable[[], object]) -> float:
    """Seconds, the least of some rounds: others use the machine too."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took)


def _range(least: int, most: int) -> str:
    low, high = _amount(least), _amount(most)
    return low if low == high else f"{low} to {high}"


def _amount(size: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size / 1024:.0f} KiB"
