"""What a medium is by its first bytes: nothing else is believed, neither a name's ending nor a server's word.

Play lists (m3u8, ffconcat, MPD, SDP) name other files and addresses, and FFmpeg opens them for whoever asks. So a
decoder here is told the one container that was recognised, which holds its pictures itself, and never guesses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "AVI",
    "FLASH",
    "GIF",
    "HEAD",
    "ISO",
    "MATROSKA",
    "WAVE",
    "WINDOWS_MEDIA",
    "Container",
    "Kind",
    "NotAdmitted",
    "admit",
    "recognise",
]

Kind = Literal["image", "video", "audio"]
HEAD = 4096  # bytes that recognition looks at


class NotAdmitted(ValueError):
    """Why bytes are no medium of the wanted kind, and what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Container:
    """`name` as people say it; `demuxer` is FFmpeg's name of the one reader that may open it ("" for pictures)."""

    name: str
    demuxer: str
    kinds: tuple[Kind, ...]


_BOTH: tuple[Kind, ...] = ("video", "audio")
ISO = Container("an MP4 or QuickTime file", "mov", _BOTH)
MATROSKA = Container("a Matroska or WebM file", "matroska", _BOTH)
AVI = Container("an AVI file", "avi", _BOTH)
WAVE = Container("a WAV file", "wav", ("audio",))
TRANSPORT = Container("an MPEG transport stream", "mpegts", _BOTH)
FLASH = Container("a Flash video", "flv", _BOTH)
WINDOWS_MEDIA = Container("a Windows Media file", "asf", _BOTH)
GIF = Container("a GIF", "gif", ("image", "video"))
_MP3 = Container("an MP3 file", "mp3", ("audio",))
_AAC = Container("an AAC file", "aac", ("audio",))

# The first boxes of ISO media as they are met; `ftyp` may be missing in old QuickTime.
_BOXES = b"ftyp styp moov mdat free skip wide pnot uuid junk pict sidx moof".split()

_BEGINNINGS: tuple[tuple[bytes, Container], ...] = (
    (b"\x1aE\xdf\xa3", MATROSKA),
    (b"FLV\x01", FLASH),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", WINDOWS_MEDIA),
    (b"OggS\x00", Container("an Ogg file", "ogg", _BOTH)),
    (b"\x00\x00\x01\xba", Container("an MPEG program stream", "mpeg", _BOTH)),
    (b"\x00\x00\x01\xb3", Container("an MPEG video stream", "mpegvideo", ("video",))),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"YUV4MPEG2 ", Container("a YUV4MPEG file", "yuv4mpegpipe", ("video",))),
    (b"DKIF\x00\x00", Container("an IVF file", "ivf", ("video",))),
    (b"fLaC", Container("a FLAC file", "flac", ("audio",))),
    (b"ID3", _MP3),
    (b"#!AMR", Container("an AMR file", "amr", ("audio",))),
    (b"caff\x00", Container("a Core Audio file", "caf", ("audio",))),
    (b".snd", Container("an AU file", "au", ("audio",))),
    (b"RF64", WAVE),
    (b"riff\x2e\x91\xcf\x11", Container("a Wave64 file", "w64", ("audio",))),
    (b"\xff\xd8\xff", Container("a JPEG picture", "", ("image",))),
    (b"\x89PNG\r\n\x1a\n", Container("a PNG picture", "", ("image",))),
    (b"BM", Container("a BMP picture", "", ("image",))),
    (b"II*\x00", Container("a TIFF picture", "", ("image",))),
    (b"MM\x00*", Container("a TIFF picture", "", ("image",))),
)
_RIFF = {
    b"AVI ": AVI,
    b"AVIX": AVI,
    b"WAVE": WAVE,
    b"WEBP": Container("a WebP picture", "", ("image",)),
}
_IFF = Container("an AIFF file", "aiff", ("audio",))
_H264 = Container("a raw H.264 stream", "h264", ("video",))
_HEVC = Container("a raw H.265 stream", "hevc", ("video",))
_NETPBM = Container("a PPM picture", "", ("image",))

_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}
_AS_PICTURE = "save it as JPEG or PNG"
_AS_VIDEO = "re-encode it as H.264 mp4"
# What else people give by mistake: how it begins, what it is, what to do.
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (rb"#EXTM3U|\s*#EXT-X-", "a play list of other addresses", "give the video itself"),
    (rb"ffconcat version", "a list of other files", "join them into one mp4 first"),
    (rb"v=0\r?\n", "a description of a network stream (SDP)", "record it into an mp4 first"),
    (
        rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<MPD\b",
        "a play list of other addresses (DASH)",
        "give the video itself",
    ),
    (
        rb"version https://git-lfs",
        "a Git LFS pointer, not the file it stands for",
        "run `git lfs pull` there",
    ),
    (rb"%PDF-", "a PDF", "save its page as PNG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file", _AS_PICTURE),
    (
        rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE svg[^>]*>\s*)?<svg\b",
        "an SVG drawing",
        "render it to PNG",
    ),
    (
        rb"\s*(?:<!--.*?-->\s*)*<(?:!DOCTYPE html|html|head|body)\b",
        "a web page, not the file that it links to",
        "download the file",
    ),
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive", "unpack it and give a file of it"),
    (rb"\x1f\x8b|BZh[1-9]|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed file", "unpack it first"),
    (rb"7z\xbc\xaf|Rar!", "an archive", "unpack it and give a file of it"),
    (rb"\x00\x00\x00\x0cJXL |\xff\x0a", "a JPEG XL picture", _AS_PICTURE),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture", _AS_PICTURE),
    (rb"8BPS", "a Photoshop file", _AS_PICTURE),
    (rb"\x00\x00\x01\x00[\x01-\x40]\x00", "an icon", _AS_PICTURE),
    (rb"\x93NUMPY", "a numpy file", "load it and give the array, or save it as PNG or mp4"),
    (rb"\{\s*\"|\[\s*[\{\"\[]", "JSON", "give the file it names"),
)


def recognise(head: bytes) -> Container | None:
    """The container that begins with these bytes (give HEAD of them), or None."""
    for start, container in _BEGINNINGS:
        if head.startswith(start):
            return container
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[:4] == b"FORM":
        return _IFF if head[8:12] in (b"AIFF", b"AIFC") else None
    if _is_netpbm(head):
        return _NETPBM
    if head[4:8] in _BOXES and not _still(head):
        return ISO
    for test, container in _TESTS:
        if test(head):
            return container
    return None


def describe(head: bytes) -> tuple[str, str]:
    """What bytes are that no reader here takes, in words, and the remedy ("" where there is none of its own)."""
    if not head:
        return "it is empty", "save or download it again"
    still = _still(head)
    if still:
        return f"it is {still} picture, which is not read here", _AS_PICTURE
    body = head.removeprefix(b"\xef\xbb\xbf")
    for pattern, what, remedy in _FOREIGN:
        if re.match(pattern, body, re.IGNORECASE | re.DOTALL):
            return f"it is {what}", remedy
    if not any(head):
        return "it holds nothing but zeros", "save or download it again"
    if _is_text(head):
        return "it is text", "give the file itself"
    return "its first bytes are of no container that is read here", ""


def admit(head: bytes, kind: Kind) -> Container:
    """The container of a medium of this kind; NotAdmitted, with words for a person, where it is none."""
    container = recognise(head)
    if container is None:
        reason, remedy = describe(head)
        raise NotAdmitted(reason, remedy)
    if kind not in container.kinds:
        raise NotAdmitted(f"it is {container.name}", f"give it as {_as(container.kinds[0])}")
    return container


def _as(kind: Kind) -> str:
    return {"image": "an image", "video": "a video", "audio": "sound"}[kind]


def _still(head: bytes) -> str:
    """ "a HEIC" or "an AVIF", where it is such a picture in ISO boxes; else ""."""
    if head[4:8] != b"ftyp":
        return ""
    brands = {head[8:12]} | {head[at : at + 4] for at in range(16, min(_size(head), 64), 4)}
    if head[8:12] in _AVIF or (head[8:12] in (b"mif1", b"msf1") and brands & _AVIF):
        return "an AVIF"
    if head[8:12] in _HEIF:
        return "a HEIC"
    return "a Canon raw" if head[8:12] == b"crx " else ""


def _size(head: bytes) -> int:
    return int.from_bytes(head[:4], "big")


def _is_netpbm(head: bytes) -> bool:
    return re.match(rb"P[1-6]\s+(?:#.*\n\s*)*\d+\s", head) is not None


def _is_transport(head: bytes) -> bool:
    """The sync byte every 188 bytes (192 on discs), though the recording may begin within a packet."""
    for stride, offset in ((188, 0), (192, 4), (204, 0)):
        for start in range(offset, offset + (1 if len(head) < 4 * stride else stride)):
            marks = head[start::stride]
            if len(marks) >= 2 and marks.count(0x47) == len(marks):
                return True
    return False


def _is_mp3(head: bytes) -> bool:
    """An MPEG audio frame's header: sync, version, layer, bit rate and sample rate that exist."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer, bits, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and bits not in (0, 15) and rate != 3


def _is_aac(head: bytes) -> bool:
    return len(head) > 6 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


def _starts_nal(head: bytes, kinds: set[int], of: Callable[[int], int]) -> bool:
    found = re.match(rb"\x00{0,1}\x00\x00\x01(.)", head, re.DOTALL)
    return found is not None and not found[1][0] & 0x80 and of(found[1][0]) in kinds


def _is_h264(head: bytes) -> bool:
    # A sequence header, an access unit's delimiter or additional information come first.
    return _starts_nal(head, {6, 7, 9}, lambda byte: byte & 31) and b"\x00\x00\x01" in head


def _is_hevc(head: bytes) -> bool:
    return _starts_nal(head, {32, 33, 35}, lambda byte: byte >> 1)


def _is_text(head: bytes) -> bool:
    if b"\x00" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3
    return True


_TESTS: tuple[tuple[Callable[[bytes], bool], Container], ...] = (
    (_is_aac, _AAC),
    (_is_mp3, _MP3),
    (_is_hevc, _HEVC),
    (_is_h264, _H264),
    (_is_transport, TRANSPORT),
)
