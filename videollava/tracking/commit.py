"""Which commit a folder is at, asked of git; where git gives no answer, that is said and nothing is made up."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from videollava.scrub import scrub

__all__ = ["Commit", "ask_git", "read_commit"]

SECONDS = 60
NO_COMMIT = "HEAD names no commit: there is none yet, or its branch is gone"
# What `git rev-parse --local-env-vars` lists, settings aside: set by a hook or an alias that called us, they
# make git answer about that repository and not about the folder asked for.
ELSEWHERE = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
    "GIT_LITERAL_PATHSPECS",
    "GIT_GLOB_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
)


@dataclass(frozen=True)
class Commit:
    """name: the hash of HEAD, "" where git gives none. dirty: tracked files differ from it (dvc.lock, which
    every run rewrites, aside) or there is Python code that it does not have; None where nobody knows. trouble:
    why there is no (whole) answer, else "".
    """

    name: str = ""
    dirty: bool | None = None
    trouble: str = ""


def read_commit(folder: Path) -> Commit:
    """The commit that `folder`'s files are of. Never raises: what git cannot say is in `trouble`."""
    name, trouble = ask_git(folder, "rev-parse", "--verify", "HEAD^{commit}")
    if trouble:
        nothing = trouble == "Needed a single revision" and not ask_git(folder, "rev-parse", "--git-dir")[1]
        return Commit(trouble=NO_COMMIT if nothing else trouble)
    if foreign := _foreign(folder):
        return Commit(trouble=foreign)
    questions = (
        (
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            ".",
            ":(exclude,glob)**/dvc.lock",
            ":(exclude)accepted.jsonl",
        ),
        ("ls-files", "--others", "--exclude-standard", "--", "*.py"),
    )
    for question in questions:
        rows, trouble = ask_git(folder, *question)
        if rows or trouble:
            return Commit(name, None if trouble else True, trouble)
    return Commit(name, False)


def _foreign(folder: Path) -> str:
    """A repository further up that knows nothing of this folder (an unpacked archive in somebody's home)."""
    top, trouble = ask_git(folder, "rev-parse", "--show-toplevel")
    if trouble or not top:
        return trouble or "git names no working tree for this folder"
    if Path(top).resolve() == folder.resolve() or ask_git(folder, "ls-files", "--", ".")[0]:
        return ""
    return f"the git repository at {top} has none of this folder's files"


def ask_git(folder: Path, *arguments: str) -> tuple[str, str]:
    """What git printed, and why it failed (one of them is ""): about the repository of `folder`, whatever called us."""
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    # No lock is taken for a question: another git may be at work here.
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return "", "git is not installed" if folder.is_dir() else f"{folder} is not there"
    except subprocess.TimeoutExpired:
        return "", f"git gave no answer in {SECONDS} s"
    except OSError as error:
        return "", f"git could not be started: {error.strerror}"
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        told = said[0] if said else f"git ended with status {done.returncode}"
        if "dubious ownership" in told:
            told += f"; `git config --global --add safe.directory {folder}` trusts it"
        return "", scrub(told.removeprefix("fatal: ").rstrip(":"))
    return done.stdout.decode(errors="replace").rstrip("\n"), ""
