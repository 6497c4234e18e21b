"""One retraining at a time in a folder, or several who only read there: a lock that the system takes back when its
last holder is gone."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from videollava.errors import InputError
from videollava.process import end_orphans

__all__ = ["LOCK", "WAIT_SECONDS", "hold", "hold_file"]

LOCK = ".prefect/retrain.lock"
WAIT_SECONDS = 30.0
# A file system that has no locks (NFS without its lock service, some FUSE and cluster mounts).
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextmanager
def hold(root: Path, wait: float = WAIT_SECONDS, shared: bool = False) -> Iterator[int]:
    """Have the workspace to oneself; yields the open lock, to be passed on to the stages' processes.

    They hold it too, so it is free only when the last of a killed retraining is gone. shared: beside others who only
    read. InputError after `wait` seconds, and where the folder cannot be written to.
    """
    busy = f"{root}: another retraining {'' if shared else 'or an evaluation '}is running here"
    with hold_file(root / LOCK, busy, wait, shared) as descriptor:
        yield descriptor


@contextmanager
def hold_file(path: Path, busy: str, wait: float = WAIT_SECONDS, shared: bool = False) -> Iterator[int]:
    """Hold the lock `path` names; InputError (`busy`, and who holds it) after `wait` seconds.

    Where the file system has no locks, one in this machine's temporary folder stands for it.
    """
    descriptor = _acquire(path, busy, time.monotonic() + wait, shared)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(path: Path, busy: str, deadline: float, shared: bool) -> int:
    while True:
        descriptor = _open(path)
        taken = _take(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        # Where somebody removed the file meanwhile, this lock would be nobody's.
        if taken and _names(path, descriptor):
            return descriptor
        holders = _holders(descriptor) if taken is False else []
        os.close(descriptor)
        if taken is None:
            path = _stand_in(path)
        elif taken is False and time.monotonic() > deadline:
            raise InputError(f"{busy}{_name(holders)}; wait for it or stop it")
        else:
            end_orphans(holders)  # stages of a retraining that was killed with all its supervisors
            time.sleep(0.2)


def _take(descriptor: int, kind: int) -> bool | None:
    """Whether the lock is ours now; None where the file system has none."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError as error:
        raise InputError(f"{path.parent.parent}: no such folder") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); a retraining needs a checkout of its own to write to"
        ) from error


def _names(path: Path, descriptor: int) -> bool:
    try:
        there, here = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _stand_in(path: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    other = Path(tempfile.gettempdir()) / f"videollava-{os.getuid()}" / f"{digest}.lock"
    print(
        f"{path}: its file system has no locks; {other} is used instead, so retrainings that other machines "
        "start in this folder are not seen: start none",
        file=sys.stderr,
    )
    return other


def _holders(descriptor: int) -> list[int]:
    """Who else has the file open (Linux; nobody where it cannot be told)."""
    wanted = os.fstat(descriptor)
    names = [name for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc/self") else []
    return [int(name) for name in names if int(name) != os.getpid() and _has_open(name, wanted)]


def _name(pids: Sequence[int]) -> str:
    return f" (process {', '.join(str(pid) for pid in sorted(pids)[:8])})" if pids else ""


def _has_open(pid: str, wanted: os.stat_result) -> bool:
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            seen = os.stat(f"/proc/{pid}/fd/{number}")
            if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    except OSError:  # another user's, or gone
        return False
    return False
