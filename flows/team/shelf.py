"""DVC's default remote as the place that the machines of a team share: what is on it, small files beside data."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.history.reasons import open_repo
from videollava.errors import InputError

if TYPE_CHECKING:
    from dvc.repo import Repo

__all__ = ["Shelf", "open_shelf"]

OURS = "videollava"  # a folder beside DVC's own
MARK = "mark"


class Shelf:
    """The default remote of an open DVC repository."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._remote = repo.cloud.get_remote()
        self._there: set[str] = set()

    def holds(self, entry: Mapping[str, Any]) -> bool:
        """Whether all outputs of a stage's entry are there. Of a folder its list is asked for, which DVC sends last."""
        return all(self._has(str(out["md5"])) for out in entry.get("outs") or ())

    def read(self, name: str) -> bytes | None:
        """A small file of ours; None where there is none."""
        try:
            return bytes(self._remote.fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Put a small file of ours there, in the place of one of that name."""
        path = self._path(name)
        self._remote.fs.makedirs(self._remote.fs.parent(path))
        self._remote.fs.pipe_file(path, content)

    def mark(self) -> str:
        """The name that this remote gave itself when it was first asked: two addresses with one name are one place."""
        found = self.read(MARK)
        if found is None:
            self.write(MARK, uuid.uuid4().hex.encode())
            found = self.read(MARK) or b""
        return found.decode()

    def _has(self, md5: str) -> bool:
        if md5 not in self._there and self._remote.odb.exists(md5):
            self._there.add(md5)
        return md5 in self._there

    def _path(self, name: str) -> str:
        return str(self._remote.fs.join(self._remote.path, OURS, *name.split("/")))


@contextmanager
def open_shelf(root: Path) -> Iterator[Shelf]:
    """The default remote of a workspace. InputError where it has none, or it does not answer."""
    from dvc.config import NoRemoteError

    with open_repo(root) as repo:
        try:
            shelf = Shelf(repo)
        except NoRemoteError as error:
            raise InputError(f"{root}: DVC has no default remote (`dvc remote add --default`)") from error
        try:
            yield shelf
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"{root}: the DVC remote cannot be used: {error}") from error
