"""What our processes set straight in their environment: servers on this machine are asked directly, never
through a proxy, a stage ends with the process that supervises it, and torch finds how to wait and to allocate."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping, MutableMapping
from ipaddress import ip_address
from urllib.parse import urlsplit

__all__ = [
    "RANKS",
    "SUPERVISED",
    "ask_loopback_directly",
    "end_with_parent_alone",
    "end_with_supervisor",
    "is_loopback",
    "keep_freed_memory",
    "settle_torch",
]

SUPERVISED = "VIDEOLLAVA_SUPERVISED"  # in the environment of all that videollava/supervise.py started
RANKS = "VIDEOLLAVA_RANKS"  # the folder of a launch: in the environment of the ranks it started
LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0")  # the last is what servers print that listen on all
PR_SET_PDEATHSIG = 1
SPINS = "2000"  # of an OpenMP thread before it sleeps
ALLOCATOR = "PYTORCH_ALLOC_CONF"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT, IN_HEAP = 2**31 - 1, (2**30, 2**25)  # bytes; an older glibc takes the second alone


def ask_loopback_directly(environ: MutableMapping[str, str] = os.environ) -> None:
    """Complete NO_PROXY and no_proxy, so that urllib, requests, httpx, boto and websockets leave loopback alone.

    Does nothing where no proxy is set: on a Mac or on Windows a NO_PROXY alone would hide the system's proxies
    from Python. Where the system has some, they are written out, for the same reason.
    """
    system = _system_proxies() if environ is os.environ else {}
    for scheme in ("http", "https"):
        if system.get(scheme) and not any(environ.get(name) for name in _spellings(scheme)):
            environ[f"{scheme}_proxy"] = system[scheme]
    if not any(
        environ.get(name) for scheme in ("http", "https", "all", "ws", "wss") for name in _spellings(scheme)
    ):
        return
    lower, upper = environ.get("no_proxy", ""), environ.get("NO_PROXY", "")
    # Most programs read the lower case first: a list that only the upper one has must not be hidden by it.
    environ["no_proxy"], environ["NO_PROXY"] = _completed(lower or upper), _completed(upper or lower)


def is_loopback(url: str) -> bool:
    """Whether an address is one of this machine's own loopback addresses."""
    host = urlsplit(url).hostname or ""
    if host in LOOPBACK or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def end_with_supervisor() -> None:
    """Under a supervisor, get SIGTERM when the process above ends: even if all of them are killed at once."""
    if SUPERVISED not in os.environ or sys.platform != "linux":
        return
    import ctypes

    above = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != above:
        os.kill(os.getpid(), signal.SIGTERM)


def end_with_parent_alone() -> None:
    """In a process that reads ahead for its parent: of signals that end, those of the parent alone are heeded.

    Who ends a training signals its whole group, and the step that is under way, and the last checkpoint, need what is
    read. Where the system does not tell who sent a signal (a Mac), all of them are heeded.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_await_parent, args=(os.getppid(),), name="signals", daemon=True).start()


def _await_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def settle_torch(environ: MutableMapping[str, str] = os.environ) -> None:
    """What torch reads as it is imported, or before its first memory of a GPU; what a user has set stays."""
    # Threads else spin at barriers while one of them waits for a core, and one busy program beside a stage costs most
    # of its speed.
    environ.setdefault("GOMP_SPINCOUNT", SPINS)
    # Packs have many lengths: blocks of one are of no use to the next, and memory ends while much of it lies idle.
    if "PYTORCH_CUDA_ALLOC_CONF" not in environ:
        environ.setdefault(ALLOCATOR, "expandable_segments:True")


def keep_freed_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Have this process keep for the next tensor what one gave back; whether it does. What a user has set stays.

    glibc else gives blocks of some size back to the system at once, and each step has it map and clear the same pages
    again. For processes that train or answer: a peak stays with them until they end.
    """
    told = any(name.startswith("MALLOC_") for name in environ) or "malloc" in environ.get(
        "GLIBC_TUNABLES", ""
    )
    if sys.platform != "linux" or told:
        return False
    import ctypes

    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(
        any(set_option(M_MMAP_THRESHOLD, size) for size in IN_HEAP) and set_option(M_TRIM_THRESHOLD, KEPT)
    )


def _system_proxies() -> dict[str, str]:
    if sys.platform not in ("darwin", "win32"):
        return {}
    from urllib.request import getproxies

    return getproxies()


def _spellings(scheme: str) -> tuple[str, str]:
    return f"{scheme}_proxy", f"{scheme.upper()}_PROXY"


def _completed(listed: str) -> str:
    hosts = [host.strip() for host in listed.split(",") if host.strip()]
    if "*" in hosts:
        return "*"  # urllib knows it only where it stands alone
    # "[::1]" and IPv6 networks: no library of Python's reads them, and httpx makes no client at all.
    hosts = [bare for host in hosts if (bare := _bare(host))]
    return ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])


def _bare(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    address, slash, _ = host.partition("/")
    return "" if slash and address.count(":") > 1 else host
