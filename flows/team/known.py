"""What need not be done: stages whose very inputs ran somewhere before, and whose outputs are on the team's remote.

dvc.lock is asked first, then the locks of the last retrainings that are saved in git (a person's acceptances too), then
DVC's run-cache, here and on the remote, by its key: neither does all of it travel, nor any data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.history.reasons import open_repo
from flows.history.save import SAVED
from flows.places.git import ask_git
from flows.stages.reading import Outcome
from flows.stages.runcache import cache_key, read_runs
from flows.team.entries import LOCK, Entry, put_entries, read_entries, take_entries
from flows.team.keys import Inputs
from flows.team.shelf import Shelf

if TYPE_CHECKING:
    from dvc.repo import Repo

__all__ = ["recall"]

LAST = 5  # saved retrainings that are looked into


def recall(root: Path, home: Path, done: Sequence[str], todo: Sequence[str]) -> dict[str, Outcome]:
    """Have dvc.lock of `root` name those of `todo` that need not be done, and say which: "unchanged" where it did.

    done: stages whose entries in dvc.lock hold. home: the checkout that `root` is a clone of, with what is saved there.
    """
    if not todo:
        return {}
    had = take_entries(root)
    entries = {name: had[name] for name in done if name in had}
    found: dict[str, Outcome] = {}
    with open_repo(root) as repo:
        inputs, shelf, saved = Inputs(repo), Shelf(repo), _Saved(home)
        for name in todo:
            wanted = inputs.entry(name, entries)
            if wanted is None:
                continue
            key = cache_key(wanted)
            own = [had[name]] if name in had and cache_key(had[name]) == key else []
            for entry in _candidates(key, own, saved, repo):
                if shelf.holds(entry):
                    entries[name] = entry
                    found[name] = "unchanged" if entry in own else "restored"
                    break
    put_entries(root, {name: entries[name] for name, outcome in found.items() if outcome == "restored"})
    return found


def _candidates(key: str, own: list[Entry], saved: _Saved, repo: Repo) -> Iterator[Entry]:
    yield from own
    yield from saved.find(key)
    yield from read_runs(repo, key)


class _Saved:
    """Entries of the last retrainings saved in git, by key; a lock is read when it is looked into."""

    def __init__(self, home: Path) -> None:
        last = ("--sort=-committerdate", f"--count={LAST}", "--format=%(objectname)")
        commits = (ask_git(home, "for-each-ref", *last, *SAVED) or "").split()
        blobs = [ask_git(home, "rev-parse", "--verify", "--quiet", f"{commit}:{LOCK}") for commit in commits]
        self._home = home
        self._left = list(dict.fromkeys(filter(None, blobs)))
        self._read: list[dict[str, Entry]] = []

    def find(self, key: str) -> Iterator[Entry]:
        for number in range(len(self._read) + len(self._left)):
            if number == len(self._read):
                text = ask_git(self._home, "cat-file", "blob", self._left.pop(0)) or ""
                self._read.append({cache_key(entry): entry for entry in read_entries(text).values()})
            if key in self._read[number]:
                yield self._read[number][key]
