"""gate.yaml as the protected commit has it: whoever asks for a promotion does not write its rules.

Where there is an origin, its main branch counts as it was last fetched; without one the file committed at HEAD; without
git the file as it is. A clone of a checkout (a worker's) asks the origin of that checkout.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.gate.rules import DEFAULT, Gate
from videollava.params import read_mapping_text, read_section
from videollava.tracking.commit import ask_git, read_commit

__all__ = ["FILE", "Rules", "read_rules"]

FILE = "gate.yaml"
BRANCHES = ("refs/remotes/origin/main", "refs/remotes/origin/HEAD", "refs/remotes/origin/master")
DEEP = 3  # clones of clones


@dataclass(frozen=True)
class Rules:
    """A model's gate, and where it stands: branch or file, commit, SHA-256 of the file ("" where there is none), the
    entry that was used. notes: what a person should know of it.
    """

    gate: Gate
    source: str = ""
    commit: str = ""
    sha256: str = ""
    entry: str = ""
    notes: tuple[str, ...] = ()


def read_rules(workspace: Path, model: str) -> Rules:
    """The rules for a registered model; InputError where gate.yaml cannot be read, or says what no gate knows."""
    text, source, commit, notes = _protected(workspace)
    if text is None:
        notes.append(f"{source} has no {FILE}: the defaults count (docs/registry.md)")
        return Rules(Gate(), source, commit, notes=tuple(notes))
    where = f"{FILE} ({source})" if commit else str(workspace / FILE)
    entries = read_mapping_text(text, where)
    read = {name: _entry(name, entry, where) for name, entry in entries.items()}
    entry = next((name for name in (model, DEFAULT) if name in read), "")
    if not entry:
        notes.append(f"{where} has no entry {model} and no {DEFAULT}: the defaults count")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return Rules(read.get(entry, Gate()), source, commit, sha256, entry, tuple(notes))


def _entry(name: Any, entry: Any, where: str) -> Gate:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: {name} must be a mapping of keys, not {type(entry).__name__}")
    return read_section(Gate, entry, f"{where}: {name}")


def _protected(workspace: Path) -> tuple[str | None, str, str, list[str]]:
    """The file's text (None: it has none), where that is from, the commit ("" without git), notes."""
    file = workspace / FILE
    here = _whole(_read(file)) if file.is_file() else None
    if trouble := read_commit(workspace).trouble:
        return here, f"the folder as it is ({trouble})", "", []
    holder, reference, notes = _reference(workspace)
    commit, _ = ask_git(holder, "rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}")
    committed, trouble = ask_git(holder, "show", f"{commit}:./{FILE}")
    text = None if trouble else _whole(committed)
    source = f"{reference.removeprefix('refs/remotes/')} at {commit[:12]}"
    if here is not None and here != text:
        notes.append(f"{FILE} here differs from {source}: what it says here is not used")
    return text, source, commit, notes


def _reference(workspace: Path) -> tuple[Path, str, list[str]]:
    """The repository to ask, and the name of its protected commit."""
    holder = workspace
    for _ in range(DEEP):
        if not (origin := _origin(holder)):
            return holder, "HEAD", []
        above = (holder / origin.removeprefix("file://")).resolve()
        # A worker's clone lies in the checkout that it is of; any other folder here is an origin like others.
        if not (above.is_dir() and holder.resolve().is_relative_to(above) and _origin(above)):
            break
        holder = above
    for name in BRANCHES:
        if not ask_git(holder, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")[1]:
            return holder, name, []
    return holder, "HEAD", ["the origin's main branch was never fetched (`git fetch origin`): HEAD counts"]


def _origin(folder: Path) -> str:
    return ask_git(folder, "config", "--local", "--get", "remote.origin.url")[0]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 ({error}); save it as UTF-8") from error


def _whole(text: str) -> str:
    """Ending in one line's end: what git prints and what a file holds compare."""
    return text.rstrip("\n") + "\n"
