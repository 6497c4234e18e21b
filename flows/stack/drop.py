"""Run a program as another account, in a folder that this account could not reach by its path:
`python -I -S drop.py UID GID FOLDER PROGRAM [ARGUMENT...]`, where `{}` in an argument stands for the folder.

The folder is open before the rights go, and is named by that (/proc/self/fd): the ones above it may be for root alone.
Standard library only: it starts in milliseconds. Linux.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys

PR_SET_PDEATHSIG = 1


def main(uid: int, gid: int, folder: str, command: list[str]) -> None:
    """Become the program."""
    above = os.getppid()
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(place, True)
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        os.fchown(0, uid, gid)  # what it is told there it opens by name (/dev/stdin)
    os.chdir("/")
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    # Ends with who supervises it: the system forgets that when the account changes.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)
    if os.getppid() != above:
        sys.exit(1)
    words = [word.replace("{}", f"/proc/self/fd/{place}") for word in command]
    os.execv(words[0], words)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
