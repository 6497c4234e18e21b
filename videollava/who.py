"""Who is at work: a person where one can be told, and otherwise the account and the machine, said as that."""

from __future__ import annotations

import getpass
import os
import socket
import unicodedata
from pathlib import Path

from videollava.tracking.commit import ask_git

__all__ = [
    "VARIABLE",
    "has_ended",
    "is_account",
    "name_account",
    "name_person",
    "name_process",
    "same_person",
    "this_process",
]

VARIABLE = "VIDEOLLAVA_USER"
ACCOUNT = "worker account "


def name_person(workspace: Path) -> str:
    """VIDEOLLAVA_USER, else git's user.name and user.email in the workspace, else the login name (or the number of
    an account without one) and the machine. It is what people say of themselves, not a proof.
    """
    if named := os.environ.get(VARIABLE, "").strip():
        return named
    name, email = (
        ask_git(workspace, "config", "--get", key)[0].strip() for key in ("user.name", "user.email")
    )
    if name or email:
        return f"{name} <{email}>" if name and email else name or email
    return f"{_login()}@{socket.gethostname()}"


def name_account() -> str:
    """A process that no person started by hand: VIDEOLLAVA_USER, else the worker's account and machine."""
    named = os.environ.get(VARIABLE, "").strip()
    return named or f"{ACCOUNT}{_login()} on {socket.gethostname()}"


def is_account(who: str) -> bool:
    """Whether this names no person."""
    return who.startswith(ACCOUNT)


def same_person(one: str, other: str) -> bool:
    """Whether two names are one person's: the same words, or the same address for mail."""
    first, second = (_address(who) or who for who in (_unify(one), _unify(other)))
    return first == second


def this_process() -> str:
    """This process among all of this machine's, as `has_ended` knows it again; "" where that cannot be told."""
    return name_process(os.getpid())


def has_ended(process: str) -> bool:
    """Whether a process of this machine (and of this container) is gone; False where nobody here can know."""
    host, space, pid, _ = (process.split(" ") + [""] * 4)[:4]
    here = this_process()
    return (
        bool(here)
        and here.split(" ")[:2] == [host, space]
        and pid.isdecimal()
        and name_process(int(pid)) != process
    )


def name_process(pid: int) -> str:
    """Host, the space its number is of, number, and when it began: numbers are used again. "" where it is gone, or
    cannot be told. One that ended is gone, also where its parent has not asked for it yet.
    """
    try:
        space = os.readlink("/proc/self/ns/pid")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{socket.gethostname()} {space} {pid} {fields[19]}"


def _address(who: str) -> str:
    return who.rpartition("<")[2].rstrip("> ") if who.endswith(">") else ""


def _unify(who: str) -> str:
    """One spelling of what looks alike: letters that are put together, spaces, capitals."""
    return " ".join(unicodedata.normalize("NFKC", who).casefold().split())


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's uid that has no name
        return f"uid-{os.getuid()}"
