"""git, asked about one folder and no other: what the environment or a folder above says is not heard."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from videollava.errors import InputError

__all__ = ["ask_git", "owns", "run_git", "settings_for_remotes"]

SSH = ("GIT_SSH_COMMAND", "GIT_SSH")

# What would lead git to another repository than the folder's (hooks and aliases of git itself set these).
ELSEWHERE = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CEILING_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)


def run_git(
    folder: Path,
    *arguments: str,
    above: bool = False,
    settings: Mapping[str, str] | None = None,
    given: str | None = None,
) -> str:
    """What git says in a repository whose top is `folder`; InputError where it fails, git is missing or there
    is none.

    git walks up from a folder that is no repository, to one of somebody else: here only where `above` allows
    it, for questions. No hook runs. settings: variables of git's environment (an index of one's own). given: what it
    reads.
    """
    top = folder.resolve()
    line = ["git", "--no-optional-locks", "-c", f"core.hooksPath={os.devnull}", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **(settings or {})}
    if not above:
        environment["GIT_CEILING_DIRECTORIES"] = str(top.parent)
    try:
        done = subprocess.run(
            line,
            cwd=top,
            env=environment,
            **({"stdin": subprocess.DEVNULL} if given is None else {"input": given}),
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",  # names of files are bytes
            check=False,
        )
    except FileNotFoundError as error:
        missing = "git is not installed, or not in PATH" if top.is_dir() else "no such folder"
        raise InputError(f"{folder}: {missing}") from error
    except OSError as error:
        raise InputError(f"{folder}: git cannot be run: {error.strerror}") from error
    if done.returncode:
        raise InputError(f"{folder}: git {' '.join(arguments)}: {_words(done.stderr, top)}")
    # Lists that end in NUL hold names as they are: one may begin with a space.
    return done.stdout if done.stdout.endswith("\0") else done.stdout.strip()


def ask_git(folder: Path, *arguments: str, above: bool = False) -> str | None:
    """As `run_git`, None instead of an error."""
    try:
        return run_git(folder, *arguments, above=above)
    except InputError:
        return None


def settings_for_remotes(folder: Path) -> dict[str, str]:
    """What git's environment gets where it asks another machine: nobody is there to be asked for a password or a
    host's key. How a person has ssh run stays.
    """
    own = any(os.environ.get(name) for name in SSH) or ask_git(folder, "config", "core.sshCommand")
    return {} if own else {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=20"}


def owns(folder: Path) -> bool:
    """Whether `folder` is the top of a repository that lies in it: a command that changes files stays inside.

    Not so for a folder without .git, a link, a worktree or submodule (.git is a file), or a broken .git.
    """
    if folder.is_symlink() or (folder / ".git").is_symlink() or not (folder / ".git").is_dir():
        return False
    found = ask_git(folder, "rev-parse", "--show-toplevel", "--absolute-git-dir")
    top = folder.resolve()
    return found is not None and [Path(line).resolve() for line in found.splitlines()] == [top, top / ".git"]


def _words(stderr: str, top: Path) -> str:
    text = stderr.strip()
    if "dubious ownership" in text:
        return (
            "the folder belongs to another user, so git does not answer; "
            f"allow it with `git config --global --add safe.directory {top}`"
        )
    if "not a git repository" in text:
        return "this folder is no git repository (an unpacked archive?); clone the project with git"
    return text.removeprefix("fatal: ")
