"""Opens media as training will, so that what can't be decoded is found now and by name."""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from videollava.data.archives.listing import DAMAGED, Member, read_member
from videollava.data.records.marks import MediumKind
from videollava.errors import InputError

__all__ = ["Inspected", "Known", "Wanted", "inspect", "inspect_all"]

Wanted = tuple[Member, MediumKind]
LONGEST = 120  # seconds that one medium may take


@dataclass(frozen=True, slots=True)
class Inspected:
    """A medium that was opened and its `look` (media.look), or the `reason` why it can't be used."""

    name: str
    kind: MediumKind
    sha256: str = ""
    width: int = 0
    height: int = 0
    frames: int = 0
    reason: str = ""
    detail: str = ""
    look: str = ""


Known = Callable[[str, MediumKind], Inspected | None]  # by sha256: what was found of the same bytes


def inspect_all(media: list[Wanted], known: Known | None = None) -> list[Inspected]:
    """`inspect` each member of its archive, in order, but those whose content is known already.

    A decoder that hangs is ended together with its worker process, as one that crashes ends it.
    """
    if multiprocessing.parent_process() is None:
        return [_inspect_member(member, kind, known) for member, kind in media]
    results = []
    for member, kind in media:
        signal.alarm(LONGEST)
        results.append(_inspect_member(member, kind, known))
        signal.alarm(0)
    return results


def _inspect_member(member: Member, kind: MediumKind, known: Known | None) -> Inspected:
    try:
        data = read_member(member)
    except DAMAGED as error:
        return Inspected(member.name, kind, reason="unreadable member", detail=str(error))
    if known and (seen := known(hashlib.sha256(data).hexdigest(), kind)):
        return replace(seen, name=member.name)
    return inspect(member.name, kind, data)


def inspect(name: str, kind: MediumKind, data: bytes) -> Inspected:
    """Decode a medium (of a video the first, the middle and the last frame), measure it, and see how it looks."""
    if not data:
        return Inspected(name, kind, reason="empty file", detail="it has no bytes")
    digest = hashlib.sha256(data).hexdigest()
    try:
        width, height, frames, look = _measure(kind, data)
    except InputError as error:
        return Inspected(name, kind, digest, reason=f"broken {kind}", detail=str(error))
    return Inspected(name, kind, digest, width, height, frames, look=look)


def _measure(kind: MediumKind, data: bytes) -> tuple[int, int, int, str]:
    """Width, height, frames and look; a sound has none of them. InputError where it can't be decoded."""
    from PIL import Image

    from videollava.data.media import audio, read, video
    from videollava.data.media.look import look_of

    if kind == "video":
        shown, total = video.survey_video(data)
        first, middle, last = (Image.fromarray(frame) for frame in shown)
        return *middle.size, total, look_of([middle, first, last])
    if kind == "audio":
        audio.check_sound(*audio.read_audio(data))
        return 0, 0, 0, ""
    if kind == "depth":
        height, width = read.read_depth(data).shape
        return width, height, 1, ""
    image = read.read_image(data)
    return *image.size, 1, look_of([image])
