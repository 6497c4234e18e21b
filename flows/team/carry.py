"""A commit on its way from the coordinator to workers: by git's `origin`, under a ref that no branch nor tag is.

The worker needs to read there, not to write; shallow clones do. A published commit holds a workspace as it is: code,
params.yaml, dvc.lock, locks. Its parent is the commit that is checked out, its date that one's: the same contents are
the same commit, whoever publishes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from flows.history.plumbing import commit_tree
from flows.history.snapshot import Snapshot
from flows.places.git import ask_git, run_git, settings_for_remotes
from videollava.errors import InputError

__all__ = ["ORIGIN", "RUNS", "bring", "fetch_commit", "publish", "see_branches", "sweep_refs", "take_back"]

ORIGIN = "origin"
RUNS = "refs/videollava/runs"
ASKED = "asked"  # in the place of a key: a look at what a trigger names
QUIET = ("--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance")
HEX = re.compile(r"[0-9a-f]{40}")


def publish(home: Path, root: Path, snapshot: Snapshot, key: str) -> str:
    """Push the snapshot of `root`, a clone of `home`, to `origin` of `home`; the commit. InputError, in git's words,
    where it is not taken.

    Under RUNS/<key>/<commit>: whoever publishes work of the same key beside this one is not in its way.
    """
    date = run_git(root, "show", "-s", "--format=%cI", snapshot.head)
    commit = commit_tree(root, snapshot.tree, snapshot.head, f"Work {key}\n", date)
    objects = Path(run_git(root, "rev-parse", "--path-format=absolute", "--git-path", "objects"))
    settings = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects), **settings_for_remotes(home)}
    run_git(
        home, "push", "--quiet", "--no-verify", ORIGIN, f"{commit}:{ref_of(key, commit)}", settings=settings
    )
    return commit


def take_back(home: Path, key: str, commit: str) -> None:
    """Remove a published commit from `origin`: who worked at it is done. Nothing where that cannot be."""
    settings = settings_for_remotes(home)
    try:
        run_git(home, "push", "--quiet", "--no-verify", ORIGIN, f":{ref_of(key, commit)}", settings=settings)
    except InputError:  # a sweep has it, or git's server is away: a ref more harms nobody
        return


def sweep_refs(home: Path, over: Callable[[str], bool]) -> list[str]:
    """Take back what coordinators that are gone left at `origin`, and what was brought from there long ago; the refs
    that are gone now. over: whether nobody works at a key, nor is about to. InputError where `origin` does not answer.
    """
    settings = settings_for_remotes(home)
    told = run_git(home, "ls-remote", "--refs", "--quiet", ORIGIN, f"{RUNS}/*", settings=settings)
    there = [line.split("\t")[1] for line in told.splitlines()]
    here = (ask_git(home, "for-each-ref", "--format=%(refname)", RUNS) or "").split()
    judged = {key: over(key) for key in {_key_of(ref) for ref in (*there, *here)} if key != ASKED}
    gone = [ref for ref in there if judged.get(_key_of(ref))]
    if gone:
        refs = [f":{ref}" for ref in gone]
        run_git(home, "push", "--quiet", "--no-verify", ORIGIN, *refs, settings=settings)
    for ref in here:
        if judged.get(_key_of(ref)):
            run_git(home, "update-ref", "-d", ref)
    return gone


def bring(home: Path, key: str, commit: str) -> None:
    """Fetch a published commit, and the one it is on, into the repository `home`. InputError where that cannot be."""
    if _has(home, commit):
        return
    depth = ["--depth=2"] if ask_git(home, "rev-parse", "--is-shallow-repository") == "true" else []
    # Kept under the same name here: what no ref names, git removes in time.
    ref = ref_of(key, commit)
    run_git(home, "fetch", *QUIET, *depth, ORIGIN, f"+{ref}:{ref}", settings=settings_for_remotes(home))
    if not _has(home, commit):
        raise InputError(f"{home}: {ORIGIN} has another commit under {ref} than {commit[:12]}")


def fetch_commit(home: Path, name: str = "") -> str:
    """What `name` (a commit, a branch or a tag of `origin`; its main branch without one) means there now; the commit,
    which lies in `home` then. InputError where `origin` knows no such thing.
    """
    if HEX.fullmatch(name) and _has(home, name):
        return name
    ref = f"{RUNS}/{ASKED}/{os.getpid()}"
    settings = settings_for_remotes(home)
    try:
        run_git(home, "fetch", *QUIET, ORIGIN, f"+{name or 'HEAD'}:{ref}", settings=settings)
    except (
        InputError
    ) as error:  # a hash that is short, or that git's server gives to nobody: it may be on a branch
        run_git(home, "fetch", *QUIET, ORIGIN, f"+refs/heads/*:refs/remotes/{ORIGIN}/*", settings=settings)
        known = ask_git(home, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if name and known:
            return known
        raise InputError(f"{home}: {ORIGIN} gives no {name or 'HEAD'!r}: {error}") from error
    commit = run_git(home, "rev-parse", f"{ref}^{{commit}}")
    run_git(home, "update-ref", "-d", ref)
    return commit


def see_branches(home: Path, warn: Callable[[str], None]) -> None:
    """Have `home` know the branches of `origin` as they are now: the gate's rules are those of its main branch, and who
    works for others fetches no branch by hand. A warning where it does not answer: the rules known here count.
    """
    try:
        run_git(home, "fetch", *QUIET, ORIGIN, settings=settings_for_remotes(home))
    except InputError as error:
        warn(f"gate: {ORIGIN} does not say what its rules are now, so those of the last look count: {error}")


def ref_of(key: str, commit: str) -> str:
    """Where a commit is published."""
    return f"{RUNS}/{key}/{commit[:12]}"


def _key_of(ref: str) -> str:
    return ref.removeprefix(f"{RUNS}/").partition("/")[0]


def _has(home: Path, commit: str) -> bool:
    return ask_git(home, "cat-file", "-e", f"{commit}^{{tree}}") is not None
