"""The door of every decoder here: a file or bytes are opened, recognised and checked before anything else."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Any, BinaryIO

from videollava.data.media.admission.containers import HEAD, Container, Kind, NotAdmitted, admit
from videollava.data.media.admission.layout import check_layout
from videollava.errors import InputError

__all__ = ["MOST_BYTES", "Source", "name_of", "open_medium", "read_file", "refuse_others", "unreadable"]

Source = bytes | Path
MOST_BYTES = 1 << 30  # that a picture's file may have; others are streamed
_REMEDY = {
    "image": "save it again or leave it out",
    "video": "check that it plays, then re-encode it as H.264 mp4",
    "audio": "convert it to WAV",
}


def open_medium(source: Source, kind: Kind, where: str = "") -> tuple[BinaryIO, Container]:
    """The open file, at its start, and the container it is; whoever asks closes it.

    Raises:
        InputError: no such file, or not what may be decoded as this kind, with the remedy.
    """
    file = _open(source, where)
    try:
        container = admit(file.read(HEAD), kind)
        if kind != "image":
            check_layout(container, file)
        file.seek(0)
    except NotAdmitted as error:
        file.close()
        raise unreadable(source, where, kind, error, error.remedy) from error
    except OSError as error:
        file.close()
        raise unreadable(source, where, kind, error) from error
    return file, container


def read_file(path: Path, where: str = "") -> bytes:
    """All of a file; InputError where there is none, or one of over MOST_BYTES."""
    with _open(path, where) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError(f"{name_of(path, where)}: over {MOST_BYTES >> 20} MiB: scale it down")
    return data


def refuse_others(url: str, *rest: Any) -> Any:
    """PyAV's `io_open`: whatever a container names, nothing else is opened for it."""
    raise ValueError("it lies in another file")


def unreadable(source: Source, where: str, kind: str, error: Exception, remedy: str = "") -> InputError:
    """The sentence for bytes that are not what they should be; without a remedy it names the kind's."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    noun = {"audio": "sound"}.get(kind, kind)
    general = _REMEDY.get(kind, _REMEDY["image"])
    advice = f"{remedy}, or leave it out" if remedy and general is _REMEDY["image"] else remedy or general
    return InputError(f"{name_of(source, where)}: cannot be read as {noun} ({reason}): {advice}")


def name_of(source: Source, where: str = "") -> str:
    """How an error names a medium."""
    if isinstance(source, bytes):
        return where or f"{len(source)} bytes"
    return f"{where}: {source}" if where else str(source)


def _open(source: Source, where: str) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    name = name_of(source, where)
    try:
        mode = source.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{name}: is a folder; name a file in it")
        if not stat.S_ISREG(mode):  # a pipe or a device may never end
            raise InputError(f"{name}: is no file but a device or pipe; save it into a file first")
        # By descriptor and not by name: FFmpeg takes some names for patterns or protocols.
        return source.open("rb")
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{name}: not found") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise InputError(f"{name}: cannot be opened ({error}); check its name and rights") from error
