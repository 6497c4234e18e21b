"""`videollava save`: a retraining as a git commit beside the branch, which `dvc exp` takes for an experiment.

The commit's parent is the commit that was checked out, its ref refs/exps/<2>/<38 digits of the parent>/<name>. It
holds the code that ran, params.yaml, dvc.yaml, dvc.lock, locks and made.json; what DVC keeps is named by dvc.lock.
Nothing of the user's is touched, and nothing is stamped that did not run: DVC itself is asked, of the tree that is to
be saved, whether it would run anything again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.history.current import Graph, Stale, find_stale
from flows.history.made import FILE, Made, to_text
from flows.history.plumbing import Index, commit_tree, make_ref, open_index, scratch
from flows.history.snapshot import LOCKS, Snapshot, take_snapshot
from flows.history.torn import find_torn
from flows.places.git import ask_git, run_git
from videollava.errors import InputError
from videollava.gate import primary

__all__ = ["EXPERIMENTS", "SAVED", "Saved", "find_saved", "save"]

EXPERIMENTS = "refs/exps"
SAVED = (EXPERIMENTS, "refs/tags/model", "refs/videollava/model")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
CONTENTS = "Contents"  # trailer: the tree without made.json; the same retraining is saved once
EARLIER = 5  # saved retrainings whose files may be those that ran


@dataclass(frozen=True)
class Saved:
    """A saved retraining. new: whether this call made it. notes: what a person should know of it."""

    commit: str
    ref: str
    new: bool = False
    notes: tuple[str, ...] = ()


def save(root: Path, made: Callable[[], Made], name: str = "", before: Snapshot | None = None) -> Saved:
    """Save the retraining in `root`, unless it is saved already.

    made: says what made.json says; asked only where there is a commit to make. name: the experiment's. before: the
    code as it was when the retraining began. InputError where a stage would run again: what lies here is not what
    ran.
    """
    if name and not NAME.fullmatch(name):
        raise InputError(f"--name {name}: letters, digits, - and _, such as more-clips")
    for stage, path in find_torn(root).items():
        raise InputError(
            f"nothing is saved: {path} was edited while stage {stage} ran, and dvc.lock names the edited one, which "
            f"may not be what ran; `dvc repro --force --single-item {stage}` makes sure, then `videollava save`"
        )
    now = take_snapshot(root)
    before = before or now
    with scratch(root) as folder:
        index = open_index(root, folder, before.tree)
        _overlay(index, now)
        _settle(root, index, now, before, folder)
        index.drop([FILE])
        contents = index.write()
        notes = tuple(dict.fromkeys((*before.notes, *now.notes)))
        if commit := find_saved(root, contents):
            return Saved(commit, _name(root, commit, name, contents), notes=notes)
        told = made()
        index.put(FILE, to_text(told))
        commit = commit_tree(root, index.write(), before.head, _message(told, contents))
        return Saved(commit, _name(root, commit, name, contents), True, notes)


def find_saved(root: Path, contents: str) -> str:
    """The commit that holds this tree (made.json aside), "" where none does."""
    trailer = f"%(contents:trailers:key={CONTENTS},valueonly,separator=%2C)"
    rows = ask_git(root, "for-each-ref", f"--format=%(objectname) {trailer}", *SAVED) or ""
    return next((row.split()[0] for row in rows.splitlines() if row.split()[1:] == [contents]), "")


def _overlay(index: Index, now: Snapshot) -> None:
    """What a retraining writes beside its outputs: dvc.lock, the locks, what DVC leaves to git."""
    index.replace(["dvc.lock", LOCKS, *now.graph.plain], now.tree)


def _settle(root: Path, index: Index, now: Snapshot, before: Snapshot, folder: Path) -> None:
    """Have every file in the index be the one that ran, whichever of the trees at hand has it.

    InputError where none has.
    """
    stale = _stale(index, folder)
    for tree in _others(root, now, before) if stale else ():
        for paths in _choices(stale):
            trial = open_index(root, folder, index.write())
            trial.replace(paths, tree)
            if len(left := _stale(trial, folder)) < len(stale):
                index.git("read-tree", trial.write())
                stale = left
                break
        if not stale:
            return
    if stale:
        raise InputError(_refusal(stale))


def _choices(stale: Sequence[Stale]) -> list[set[str]]:
    """What to take of another tree: the files that differ; and parameters, which decide what stages there are."""
    paths = {one.path for one in stale}
    return [paths, paths | {"params.yaml"}] if "dvc.yaml" in paths and "params.yaml" not in paths else [paths]


def _others(root: Path, now: Snapshot, before: Snapshot) -> Iterator[str]:
    yield from (now.tree, before.head)
    last = ("--sort=-committerdate", f"--count={EARLIER}", "--format=%(objectname)")
    yield from (ask_git(root, "for-each-ref", *last, *SAVED) or "").split()


def _stale(index: Index, folder: Path) -> list[Stale]:
    """What DVC would run again in a checkout of this index."""
    number = sum(1 for _ in folder.glob("tree-*"))
    there, aside = folder / f"tree-{number}", folder / "site"
    there.mkdir()
    index.check_out(there, index.match_files("*.yaml", "*.dvc", ".dvc", "*.dvcignore", "dvc.lock"))

    def bring(graph: Graph) -> None:
        index.check_out(there, index.list_files(*graph.code, *graph.files))

    return find_stale(there, aside, bring)


def _refusal(stale: Sequence[Stale]) -> str:
    told = "; ".join(one.describe() for one in stale[:3])
    more = f"; and {len(stale) - 3} more" if len(stale) > 3 else ""
    return (
        f"nothing is saved, since what lies here is not what ran: {told}{more}. `dvc repro` runs it as it is now; or "
        "put back what ran (`git diff` shows your edits), then `videollava save`"
    )


def _name(root: Path, commit: str, name: str, contents: str) -> str:
    """The ref of a saved commit, made where it lacks. A name that is asked for replaces the one it had."""
    baseline = run_git(root, "rev-parse", f"{commit}^")
    place = f"{EXPERIMENTS}/{baseline[:2]}/{baseline[2:]}"
    had = (ask_git(root, "for-each-ref", "--format=%(refname)", f"--points-at={commit}", place) or "").split()
    if had and (not name or f"{place}/{name}" in had):
        return f"{place}/{name}" if name else had[0]
    ref = f"{place}/{name or f'retrained-{contents[:10]}'}"
    if not make_ref(root, ref, commit):
        raise InputError(
            f"--name {name}: another retraining of this commit has that name; `dvc exp list` shows them"
        )
    for old in had:
        run_git(root, "update-ref", "-d", old, commit)
    return ref


def _message(made: Made, contents: str) -> str:
    scores = {name: primary(values) for name, values in made.scores.items()}
    shown = ", ".join(f"{name} {score:.2f}" for name, score in scores.items() if score is not None)
    return f"Retraining of {made.model}{f': {shown}' if shown else ''}\n\n{CONTENTS}: {contents}\n"
