"""Objects at s3://, https://, http:// or file://: opened at a span, if they are still the same; seen; listed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from videollava.data.acquire.addresses import Address, parse_address
from videollava.data.acquire.remote_http import open_http, see_http
from videollava.data.acquire.remote_s3 import list_s3, open_s3, see_s3
from videollava.data.acquire.replies import Answer, Seen, Span
from videollava.data.acquire.s3_client import Access
from videollava.errors import InputError

__all__ = ["BY_ENVIRONMENT", "list_url", "open_url", "see_url"]

BY_ENVIRONMENT = Access()


@contextmanager
def open_url(
    url: str, span: Span, version: str, origin: str, access: Access = BY_ENVIRONMENT
) -> Iterator[Answer]:
    """Open `span` of `url`, if it is still `version`; else, or where that can't be, all of it.

    `origin` names the parameter in errors, `access` says how a store of S3 is reached.

    Raises:
        InputError: a wrong address, or a refusal that another attempt won't change.
        TransientError, OSError, http.client.HTTPException: worth another attempt.
    """
    address = parse_address(url, origin)
    if address.scheme == "s3":
        answer = open_s3(address, span, version, access, origin)
    elif address.scheme == "file":
        answer = _open_local(address, span, version, origin)
    else:
        answer = open_http(address, span, version, origin)
    with closing(answer.body):
        yield answer


def see_url(url: str, origin: str, access: Access = BY_ENVIRONMENT) -> Seen:
    """Size and version of an object, without its bytes. Raises as open_url does."""
    address = parse_address(url, origin)
    if address.scheme == "s3":
        return see_s3(address, access, origin)
    if address.scheme == "file":
        # A local file's date says nothing on another machine: its sum does.
        return Seen("", _local_file(address, origin).stat().st_size)
    return see_http(address, origin)


def list_url(url: str, origin: str, access: Access = BY_ENVIRONMENT) -> Iterator[Seen]:
    """Every object below an address of s3 that ends in /; their names go on from there. Raises as open_url does."""
    return list_s3(parse_address(url, origin), access, origin)


def _local_file(address: Address, origin: str) -> Path:
    for name in address.names:
        if (path := Path(name)).is_file():
            return path
    raise InputError(f"{origin}: {address.shown!r}: there is no such file")


def _open_local(address: Address, span: Span, version: str, origin: str) -> Answer:
    path = _local_file(address, origin)
    state = path.stat()
    found = f"{state.st_size}-{state.st_mtime_ns}"
    start = span.start if version in ("", found) else 0
    file = path.open("rb")
    file.seek(start)
    return Answer(file, start, state.st_size, found)
