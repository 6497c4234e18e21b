"""The commit that a version, an experiment or a hash means: asked of git first, then of the registry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flows.history.made import FILE
from flows.history.tags import is_shared, version_refs
from flows.places.git import ask_git
from videollava import registry
from videollava.errors import InputError
from videollava.params import Tracking

__all__ = ["Found", "commit_of", "find_commit", "find_in_git"]

NUMBERED = re.compile(r"(?:(?:models:/|model/|refs/tags/model/)?(?P<name>[^\s/:@]+)/)?(?P<number>[1-9]\d*)")
FETCH = '`git fetch --tags origin "refs/exps/*:refs/exps/*"` brings those of others'


@dataclass(frozen=True)
class Found:
    """A saved retraining. version: "videollava/7", or "" where it was not asked for as a version."""

    commit: str
    version: str = ""


def find_commit(root: Path, tracking: Tracking, reference: str) -> Found:
    """What `reference` means in the repository `root`: a version (7, champion, models:/NAME/7, model/NAME/7), the name
    of an experiment, a commit.

    InputError where nothing has that name, or the commit is not in this repository.
    """
    if found := find_in_git(root, tracking, reference):
        return found
    return commit_of(root, registry.find_version(root, tracking, _as_version(tracking, reference)))


def find_in_git(root: Path, tracking: Tracking, reference: str) -> Found | None:
    """What git alone knows by that name. InputError where it is several commits, or no saved retraining."""
    if numbered := NUMBERED.fullmatch(reference):
        name, number = numbered["name"] or tracking.model, int(numbered["number"])
        refs = version_refs(name, number)
        for ref in refs if is_shared(root, root, tracking, "HEAD") else reversed(refs):
            if commit := _commit(root, ref):
                return Found(_check(root, commit, reference), f"{name}/{number}")
    elif not reference.startswith("models:/"):
        named = ask_git(root, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{reference}") or ""
        commits = set(named.split())
        if len(commits) > 1:
            raise InputError(f"{reference}: several commits have an experiment of that name; give its hash")
        if commit := (commits.pop() if commits else _commit(root, reference)):
            return Found(_check(root, commit, reference))
    return None


def commit_of(root: Path, version: registry.Version) -> Found:
    """The commit that the registry has for a version. InputError where it has none, or that is not here."""
    if not version.saved:
        raise InputError(
            f"{version.reference}: was registered without a commit of its own; `videollava save` makes one "
            "where its outputs lie"
        )
    return Found(_check(root, version.saved, version.reference), f"{version.name}/{version.number}")


def _as_version(tracking: Tracking, reference: str) -> str:
    if numbered := NUMBERED.fullmatch(reference):
        return f"models:/{numbered['name'] or tracking.model}/{numbered['number']}"
    return reference


def _check(root: Path, commit: str, reference: str) -> str:
    if _commit(root, commit) is None:
        raise InputError(f"{reference}: its commit {commit[:12]} is not in {root}; {FETCH}")
    if ask_git(root, "cat-file", "-e", f"{commit}:{FILE}") is None:
        raise InputError(f"{reference}: commit {commit[:12]} is no saved retraining (no {FILE}); {FETCH}")
    return commit


def _commit(root: Path, name: str) -> str | None:
    return ask_git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}") or None
