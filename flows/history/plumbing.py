"""Trees and commits made over an index of our own: the user's branch, index, stash and files are never touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.places.git import ask_git, run_git
from flows.places.lock import hold_file
from videollava.errors import InputError

__all__ = ["NOTHING", "Index", "commit_tree", "identity", "make_ref", "open_index", "read_head", "scratch"]

NOTHING = "0" * 40  # the old value of a ref that is to be new
# What a person's settings would add: lines that git rewrites or refuses, daemons, and indexes shared with theirs.
PLAIN = (
    "-c",
    "core.safecrlf=false",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.untrackedCache=false",
    "-c",
    "core.splitIndex=false",
    "-c",
    "gc.auto=0",
)
ROLES = ("AUTHOR", "COMMITTER")
NOBODY = {"NAME": "videollava", "EMAIL": "videollava@localhost"}


@dataclass(frozen=True)
class Index:
    """A git index in `file`, of the repository whose top is `root`. Blobs and trees go to the repository's store,
    where what no ref names is removed by git in time.
    """

    root: Path
    file: Path

    def git(self, *arguments: str, given: str | None = None) -> str:
        """A git command over this index."""
        settings = {"GIT_INDEX_FILE": str(self.file)}
        return run_git(self.root, *PLAIN, *arguments, settings=settings, given=given)

    def add(self, paths: Iterable[str]) -> None:
        """Files of the working tree, whether git ignores them or not; one that is gone goes."""
        self._take(paths, "--add", "--remove")

    def drop(self, paths: Iterable[str]) -> None:
        """Take paths out, folders with all below them."""
        if names := list(paths):
            self._take(self.list_files(*names), "--force-remove")

    def put(self, path: str, text: str) -> None:
        """A file of this content, wherever there is one in the working tree."""
        blob = self.git("hash-object", "-w", "--stdin", given=text)
        self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")

    def replace(self, paths: Iterable[str], tree: str) -> None:
        """`paths` (files and folders) as they are in `tree`: what is not in there goes."""
        names = list(paths)
        self.drop(names)
        rows = run_git(self.root, "ls-tree", "-r", "-z", "--full-tree", tree, "--", *names)
        self.git("update-index", "-z", "--index-info", given=rows)

    def list_files(self, *paths: str) -> list[str]:
        """Paths in this index, of all or below those given."""
        literal = [f":(top,literal){path}" for path in paths]
        return _split(self.git("ls-files", "-z", "--", *literal))

    def match_files(self, *patterns: str) -> list[str]:
        """Paths in this index that git's patterns match."""
        return _split(self.git("ls-files", "-z", "--", *patterns))

    def write(self) -> str:
        """The tree of this index."""
        return self.git("write-tree")

    def check_out(self, folder: Path, paths: Sequence[str]) -> None:
        """Write `paths` below `folder` as a checkout would: line ends and filters too."""
        self.git(
            "checkout-index", "-q", "-f", "-z", "--stdin", f"--prefix={folder}{os.sep}", given=_join(paths)
        )

    def _take(self, paths: Iterable[str], *how: str) -> None:
        if names := list(paths):
            self.git("update-index", *how, "-z", "--stdin", given=_join(names))


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A folder of this process's own in the repository's git folder, where no tool looks; one process at a time.

    What a killed one left in there is removed first. InputError where `root` is not the top of a git repository.
    """
    place = _git_folder(root) / "videollava"
    try:
        place.mkdir(exist_ok=True)
        with hold_file(place / "lock", f"{root}: another process is saving a retraining here"):
            for left in place.glob("work-*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix="work-", dir=place) as folder:
                yield Path(folder)
    except OSError as error:  # a full disk, a repository that is only read: a training is not lost for it
        raise InputError(f"{place}: {error.strerror or error}") from error


def open_index(root: Path, folder: Path, tree: str = "") -> Index:
    """A new index in `folder`: of `tree`, or of the user's own as it is now (what is staged is known there)."""
    handle, name = tempfile.mkstemp(prefix="index-", dir=folder)
    os.close(handle)
    index = Index(root, Path(name))
    own = Path(run_git(root, "rev-parse", "--path-format=absolute", "--git-path", "index"))
    if not tree and own.is_file():
        shutil.copy2(
            own, index.file
        )  # its time too: git looks into files that changed since only where it is older
    else:
        index.file.unlink()
        index.git("read-tree", tree or "HEAD")
    return index


def read_head(root: Path) -> str:
    """The commit that is checked out. InputError where there is none yet, or no git."""
    _git_folder(root)
    head = ask_git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if head is None:
        raise InputError(f"{root}: git has no commit here yet, so there is nothing to save beside; make one")
    return head


def commit_tree(root: Path, tree: str, parent: str, message: str, date: str = "") -> str:
    """A commit that no branch names; by `videollava` where git knows no name for whoever runs this. date: in the place
    of now, and by nobody: the same tree is the same commit then.
    """
    words = ("commit-tree", "--no-gpg-sign", tree, "-p", parent)
    dates = {f"GIT_{role}_DATE": date for role in ROLES if date}
    return run_git(
        root, *PLAIN, *words, settings={**identity(root, nobody=bool(date)), **dates}, given=message
    )


def identity(root: Path, nobody: bool = False) -> dict[str, str]:
    """What git's environment lacks to say who makes a commit: nothing where git knows, and it need not be nobody."""
    settings: dict[str, str] = {}
    for role in ROLES:
        if nobody or ask_git(root, "var", f"GIT_{role}_IDENT") is None:
            settings |= {f"GIT_{role}_{part}": word for part, word in NOBODY.items()}
    return settings


def make_ref(root: Path, name: str, commit: str) -> bool:
    """Create a ref, unless it is there already (False): whoever is first makes it, and it never moves."""
    try:
        run_git(root, "update-ref", "--no-deref", name, commit, NOTHING)
    except InputError:
        if ask_git(root, "rev-parse", "--verify", "--quiet", name) is None:
            raise
        return False
    return True


def _git_folder(root: Path) -> Path:
    top = run_git(root, "rev-parse", "--show-toplevel")
    if Path(top).resolve() != root.resolve():
        raise InputError(
            f"{root}: is a folder of the repository at {top}, not its top; work in a clone of its own"
        )
    return Path(run_git(root, "rev-parse", "--absolute-git-dir"))


def _split(text: str) -> list[str]:
    return [name for name in text.split("\0") if name]


def _join(names: Iterable[str]) -> str:
    return "".join(f"{name}\0" for name in names)
