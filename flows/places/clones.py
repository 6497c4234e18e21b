"""Clean clones of a checkout, one a commit, for retrainings that a worker starts: made, checked, dropped.

They lie in `.prefect/workspaces` of the checkout they are of. Whatever is done to one is done under its lock
and only where git says that it is a repository of its own: a command that changes files, given in a folder
that is none, would change those of the checkout around it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.places.by_hand import drop_torn
from flows.places.git import ask_git, owns, run_git
from flows.places.lock import WAIT_SECONDS, hold, hold_file
from videollava.errors import InputError

__all__ = ["CLONES", "SYNC", "drop_old_clones", "drop_sync", "have_clone", "hold_sync"]

CLONES = ".prefect/workspaces"
SYNC = ".prefect/sync"  # the clone in which sources are looked at
KEEP_CLONES = 3
STALE_SECONDS = 86400.0
LEFTOVER = ("cloning-", "removing-")
log = logging.getLogger(__name__)


@contextmanager
def have_clone(
    home: Path, commit: str, name: str = "", wait: float = WAIT_SECONDS
) -> Iterator[tuple[Path, int]]:
    """(folder, lock): a clone of `home` at `commit` (all 40 digits), this process's alone while it is open.

    name: of the folder, 12 hexadecimal digits, where one commit has several clones; by default the commit's. wait:
    seconds, for somebody who is at work there.

    Tracked files are as committed; what else an earlier run left stays, to resume from. Something else in the
    clone's place (a folder without .git, a link, a broken repository) is renamed and kept.
    """
    folder = home / CLONES
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / (name or commit[:12])
    busy = f"{root}: another retraining is running here"
    with hold_file(_lock(root), busy, wait):
        _follow(home, root)
        if not _usable(root, commit):
            _set_aside(root)
            _clone(home, root)
            _follow(home, root)
        with hold(root, wait) as lock:
            drop_torn(root)
            _check_out(root, commit)
            os.utime(root)
            yield root, lock


def drop_old_clones(home: Path, keep: int | None = None) -> None:
    """Remove all clones but the last `keep` (KEEP_CLONES) and those somebody works in."""
    keep = KEEP_CLONES if keep is None else keep
    folder = home / CLONES
    if not folder.is_dir():
        return
    clones = [path for path in folder.iterdir() if re.fullmatch("[0-9a-f]{12}", path.name) and owns(path)]
    for old in sorted(clones, key=lambda path: path.stat().st_mtime)[: max(0, len(clones) - keep)]:
        try:
            with hold_file(_lock(old), "", wait=0.0), hold(old, wait=0.0):
                # Renamed first: a removal that is cut short leaves no half clone in its place.
                gone = old.rename(folder / f"removing-{old.name}-{uuid.uuid4().hex[:8]}")
                _lock(old).unlink()
        except InputError:  # somebody works in there
            continue
        shutil.rmtree(gone, ignore_errors=True)
    for path in folder.iterdir():
        stale = path.name.startswith(LEFTOVER) and path.is_dir() and not path.is_symlink()
        if stale and time.time() - path.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def hold_sync(home: Path, wait: float) -> Iterator[Path]:
    """Have the folder of syncs (SYNC) to oneself; InputError after `wait` seconds. It may not be there yet."""
    root = home / SYNC
    root.parent.mkdir(exist_ok=True)
    with hold_file(_lock(root), f"{root}: another sync is running here", wait):
        yield root


def drop_sync(home: Path) -> None:
    """Remove the clone of syncs, unless one is at work in there: the next makes it again."""
    if (home / SYNC).is_dir() and not (home / SYNC).is_symlink():
        try:
            with hold_sync(home, 0.0) as root:
                shutil.rmtree(root, ignore_errors=True)
        except InputError:
            return


def _lock(root: Path) -> Path:
    """Beside the clone: it is there before the clone is, and after."""
    return root.with_name(f"{root.name}.lock")


def _usable(root: Path, commit: str) -> bool:
    return owns(root) and ask_git(root, "cat-file", "-e", f"{commit}^{{tree}}") is not None


def _set_aside(root: Path) -> None:
    if not os.path.lexists(root):
        return
    kept = root.with_name(f"set-aside-{root.name}-{uuid.uuid4().hex[:8]}")
    root.rename(kept)
    log.warning("%s: is no clone that git can use; kept as %s, and a new one is made", root, kept.name)


def _clone(home: Path, root: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix="cloning-", dir=root.parent))
    try:
        run_git(aside, "clone", "--quiet", "--shared", "--no-checkout", str(home), str(aside))
        aside.chmod(0o755)  # mkdtemp's are for the owner alone
        aside.rename(root)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _follow(home: Path, root: Path) -> None:
    """Of a shallow checkout git makes a copy, which does not see what comes to it later, nor where its history ends."""
    if not (home / ".git" / "shallow").is_file() or not owns(root):
        return
    (root / ".git" / "objects" / "info" / "alternates").write_text(f"{home / '.git' / 'objects'}\n")
    shutil.copyfile(home / ".git" / "shallow", root / ".git" / "shallow")


def _check_out(root: Path, commit: str) -> None:
    if not owns(root):
        raise InputError(f"{root}: is no repository of its own, so nothing is checked out there; remove it")
    (root / ".git" / "index.lock").unlink(missing_ok=True)  # of a git that was killed: nobody else is here
    line = [f"--git-dir={root / '.git'}", f"--work-tree={root}", "checkout", "--quiet", "--force", "--detach"]
    try:
        run_git(root, *line, commit)
    except InputError:
        (root / ".git" / "index").unlink(missing_ok=True)  # cut short while it was written: git makes it anew
        run_git(root, *line, commit)
