"""A server for the tests of this folder, and the environment in which it is reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seaweed import KEY, SECRET, Seaweed


@contextmanager
def serving(folder: Path) -> Iterator[Seaweed]:
    """A server of a folder, while the context lasts."""
    server = Seaweed(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def reach(url: str) -> dict[str, str]:
    """What the environment says of a server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
