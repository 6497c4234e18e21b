"""Ports of our own servers: on loopback, and kept for them until they listen."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videollava.errors import InputError

__all__ = ["is_ours", "is_taken", "own_address", "reserve"]

HOSTS = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}
LISTENS = "0A"


@contextmanager
def reserve(wanted: int = 0) -> Iterator[tuple[str, int]]:
    """(host, port) on loopback for a server to be started: `wanted` where it is free, else any.

    The port stays bound while this is open, so nobody gets it by chance between the choice and the start; the
    server itself can bind it beside us (SO_REUSEADDR, without listening). IPv6 where there is no IPv4.
    """
    for host, family in HOSTS.items():
        for port in dict.fromkeys((wanted, 0)):
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError:
                    continue
                port = probe.getsockname()[1]
                if sys.platform != "linux":  # elsewhere nobody can bind beside us
                    probe.close()
                yield host, port
                return
    raise InputError("no port can be bound on 127.0.0.1 or ::1; is the loopback interface up?")


def is_taken(host: str, port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with socket.socket(HOSTS[host]) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is closing is no hindrance
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return True
    return False


def own_address(host: str, port: int) -> str:
    """http://HOST:PORT"""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_ours(port: int) -> bool:
    """Whether what listens on a port belongs to this user, as far as can be told."""
    return _listener(port) in (None, os.getuid())


def _listener(port: int) -> int | None:
    """User id of who listens on a port of this machine (Linux); None where it cannot be told."""
    for file in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in file.read_text().splitlines()[1:] if file.is_file() else ():
            _, local, _, state, *rest = line.split()
            if state == LISTENS and int(local.rpartition(":")[2], 16) == port:
                return int(rest[3])
    return None
