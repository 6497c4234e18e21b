"""Opens an object at s3://, https://, http:// or file:// from a byte on, if it is still the same object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from videollava.data.acquire.addresses import Address, parse_address
from videollava.data.acquire.remote_http import http_size, open_http
from videollava.data.acquire.remote_s3 import open_s3, s3_size
from videollava.data.acquire.replies import Answer
from videollava.errors import InputError

__all__ = ["open_url", "remote_size"]


@contextmanager
def open_url(url: str, start: int, version: str, origin: str) -> Iterator[Answer]:
    """Open `url` from byte `start` on, if it is still `version`; else, or where that can't be, from byte 0.

    `origin` names the parameter in errors.

    Raises:
        InputError: a wrong address, or a refusal that another attempt won't change.
        TransientError, OSError, http.client.HTTPException: worth another attempt.
    """
    openers = {"http": open_http, "https": open_http, "s3": open_s3, "file": _open_local}
    address = parse_address(url, origin)
    answer = openers[address.scheme](address, start, version, origin)
    with closing(answer.body):
        yield answer


def remote_size(url: str, origin: str) -> int:
    """Bytes of an object, -1 where that can't be had: whatever is wrong then shows when it's fetched.

    Raises InputError where the address itself is wrong.
    """
    address = parse_address(url, origin)
    if address.scheme == "file":
        path = _local_file(address)
        return path.stat().st_size if path is not None else -1
    return s3_size(address, origin) if address.scheme == "s3" else http_size(address, origin)


def _local_file(address: Address) -> Path | None:
    return next((path for name in address.names if (path := Path(name)).is_file()), None)


def _open_local(address: Address, start: int, version: str, origin: str) -> Answer:
    path = _local_file(address)
    if path is None:
        raise InputError(f"{origin}: {address.shown!r}: there is no such file")
    state = path.stat()
    found = f"{state.st_size}-{state.st_mtime_ns}"
    start = start if version == found else 0
    file = path.open("rb")
    file.seek(start)
    return Answer(file, start, state.st_size, found)
