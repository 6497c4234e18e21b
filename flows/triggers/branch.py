"""The branch `data/<date>` of origin: locks that are newer than main's, in a clone of a sync's own.

Each day that something changed has its branch, which begins where the last one that main lacks ended (else at main),
with main merged in. Nobody but people moves main, and nothing is ever forced.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.history.plumbing import commit_tree, identity
from flows.history.snapshot import LOCKS
from flows.places.clones import hold_sync
from flows.places.git import ask_git, owns, run_git, settings_for_remotes
from videollava.errors import InputError

__all__ = ["Moved", "Place", "Start", "open_place"]

SYNCED = "Synced"  # the trailer of a sync's commits
WAIT_SECONDS = 600.0  # for another sync of this checkout
_DAY = re.compile(r"data/\d{4}-\d\d-\d\d")
_SEEN = "refs/remotes/seen"


class Moved(Exception):
    """Somebody else pushed to the branch meanwhile."""


@dataclass(frozen=True)
class Start:
    """What a sync begins from. branch: today's. base: the commit that is checked out. waiting: the branch before,
    which main lacks ("": none), and synced: the last commit of a sync on it. told: what a person should know.
    """

    branch: str
    base: str
    waiting: str = ""
    synced: str = ""
    told: str = ""


@dataclass(frozen=True)
class Place:
    """A clone in `root` of what the checkout `home` has as `remote`, and whose branch `main` people move."""

    home: Path
    root: Path
    remote: str
    main: str

    def begin(self, today: str) -> Start:
        """Have the files of where a sync of this day (YYYY-MM-DD) begins; what a killed one left is gone.

        InputError where the remote is not reached, or today's branch and main cannot be merged by themselves.
        """
        refs = (f"+refs/heads/{self.main}:{_SEEN}/{self.main}", f"+refs/heads/data/*:{_SEEN}/data/*")
        self._ask_remote("fetch", "--prune", "--no-tags", "--no-write-fetch-head", self.remote, *refs)
        main, branch = self._commit(self.main), f"data/{today}"
        before = self._last_branch(branch)
        if not before:
            self._check_out(main)
            return Start(branch, main)
        tip = self._commit(before)
        self._check_out(tip)
        told = self._merge(main, before, branch)
        at = main if told else self._git("rev-parse", "HEAD")
        if self._has_locks_of(before):
            return Start(branch, at, told=told)
        synced = self._git("log", "-1", "--format=%H", f"--grep=^{SYNCED}: ", f"{main}..{tip}")
        return Start(branch, at, before, synced, told)

    def changed(self, names: Sequence[str]) -> list[str]:
        """Those of these sources whose lock is another than where this sync began."""
        rows = self._git("status", "--porcelain", "-z", "--untracked-files=all", "--", str(LOCKS)).split("\0")
        paths = {row[3:] for row in rows if row}
        return [name for name in names if f"{LOCKS}/{name}.json" in paths]

    def commit(self, start: Start, names: Sequence[str], message: str) -> str:
        """A commit of these sources' locks upon where this sync began; no branch names it yet."""
        self._git("add", "--", *(f"{LOCKS}/{name}.json" for name in names))
        text = f"{message.strip()}\n\n{SYNCED}: {', '.join(names)}\n"
        return commit_tree(self.root, self._git("write-tree"), start.base, text)

    def push(self, commit: str, branch: str) -> None:
        """Put the commit on origin's branch. Moved where that has another one by now; InputError in git's words."""
        try:
            self._ask_remote("push", "--no-verify", self.remote, f"{commit}:refs/heads/{branch}")
        except InputError as error:
            # By two pushes at once, too: the one that comes second cannot lock the ref.
            if any(word in str(error) for word in ("[rejected]", "fetch first", "cannot lock ref")):
                raise Moved from error
            raise

    def _last_branch(self, today: str) -> str:
        """Today's branch, else the latest before it, where main lacks commits of it; "" where main has all."""
        listed = self._git("for-each-ref", "--format=%(refname:lstrip=3)", f"{_SEEN}/data/").split()
        days = sorted(name for name in listed if _DAY.fullmatch(name) and name <= today)
        if not days or self._holds(
            "merge-base", "--is-ancestor", self._commit(days[-1]), self._commit(self.main)
        ):
            return ""
        # Merged as one commit of another name: only today's has to be gone on with, as nothing is forced.
        return days[-1] if days[-1] == today or not self._has_locks_of(days[-1]) else ""

    def _has_locks_of(self, branch: str) -> bool:
        """Whether main has the same locks."""
        return self._holds("diff", "--quiet", self._commit(self.main), self._commit(branch), "--", str(LOCKS))

    def _merge(self, main: str, before: str, branch: str) -> str:
        """Merge main into what is checked out; where that cannot be, main is checked out, and a sentence says so."""
        words = ("merge", "--quiet", "--no-edit", "--no-gpg-sign", "--no-verify", "-m")
        try:
            run_git(self.root, *words, f"Merge {self.main} into {branch}", main, settings=identity(self.root))
            return ""
        except InputError as error:
            by_hand = f"merge {self.main} into it by hand, or remove it from {self.remote}"
            if before == branch:
                raise InputError(
                    f"{branch} and {self.main} both changed the same lines, so nothing is put on top of it: {by_hand}"
                ) from error
            self._check_out(main)
            return f"{before} and {self.main} both changed the same lines, so {branch} begins at {self.main}"

    def _check_out(self, commit: str) -> None:
        if not owns(self.root):
            raise InputError(f"{self.root}: is no repository of its own; remove it")
        for name in ("index.lock", "HEAD.lock", "MERGE_HEAD", "MERGE_MSG", "MERGE_MODE"):
            (self.root / ".git" / name).unlink(missing_ok=True)  # of a sync that was killed
        self._git("checkout", "--quiet", "--force", "--detach", commit)
        self._git("clean", "-ffdxq")

    def _commit(self, branch: str) -> str:
        return self._git("rev-parse", "--verify", f"{_SEEN}/{branch}^{{commit}}")

    def _git(self, *words: str) -> str:
        return run_git(self.root, *words)

    def _holds(self, *words: str) -> bool:
        return ask_git(self.root, *words) is not None

    def _ask_remote(self, verb: str, *words: str) -> None:
        """From the checkout, whose settings say where the remote is and who may ask it: paths may be from there on."""
        line = (f"--git-dir={self.root / '.git'}", verb, "--quiet", *words)
        run_git(self.home, *line, settings=settings_for_remotes(self.home))


@contextmanager
def open_place(home: Path, remote: str = "origin", main: str = "main") -> Iterator[Place]:
    """The clone of a checkout's remote, this process's alone while it is open.

    InputError where the checkout has no such remote, or another sync is in there for ten minutes.
    """
    home = home.resolve()
    if remote not in run_git(home, "remote").split():
        raise InputError(
            f"{home}: git has no remote {remote!r}, where data/<date> would go; `git remote add {remote} ADDRESS`"
        )
    with hold_sync(home, WAIT_SECONDS) as root:
        if not owns(root):
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            run_git(root, "init", "--quiet")
        config = run_git(home, "rev-parse", "--path-format=absolute", "--git-common-dir")
        run_git(root, "config", "include.path", f"{config}/config")
        yield Place(home, root, remote, main)
