"""The stack's git: a bare repository that stands for the team's, and checkouts of it that work on their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows.places.git import ask_git, owns, run_git
from flows.stack.ground import Ground, write_secret
from flows.stack.objects import REGION
from videollava.errors import InputError

__all__ = ["MAIN", "REMOTE", "follow", "have_clone", "have_origin", "join", "origin"]

MAIN = "main"
REMOTE = "stack"  # DVC's, in config.local
SETTINGS = {
    "receive.shallowUpdate": "true",  # the checkout that the stack is of may be a shallow one
    "uploadpack.allowAnySHA1InWant": "true",
    "receive.denyNonFastForwards": "true",
}


def origin(ground: Ground) -> Path:
    """Where it is."""
    return ground.folder / "origin.git"


def have_origin(ground: Ground, source: Path, tell: Callable[[str], None]) -> None:
    """Make it where there is none, and push `source`'s commit to its main where that goes forwards only.

    InputError where `source` is no git repository.
    """
    folder = origin(ground)
    head = run_git(source, "rev-parse", "HEAD")
    if not (folder / "HEAD").is_file():
        _make_bare(folder)
    if run_git(source, "status", "--porcelain", "--untracked-files=no"):
        tell(
            f"{source}: has changes that are not committed; workers get what is (git commit, then `make up` again)"
        )
    main = ask_git(folder, "rev-parse", "--verify", "--quiet", f"refs/heads/{MAIN}")
    if main == head or (main and ask_git(folder, "merge-base", "--is-ancestor", head, main) is not None):
        return  # others' commits are there already, and this one is below them
    try:
        run_git(source, "push", "--quiet", "--no-verify", str(folder), f"HEAD:refs/heads/{MAIN}")
    except InputError:
        tell(
            f"{folder}: its {MAIN} has commits that {source} lacks, so HEAD is not pushed there; "
            f"`git pull --rebase {folder} {MAIN}`, then `make up` again"
        )


def have_clone(ground: Ground, folder: Path, machine: Mapping[str, Any]) -> None:
    """A checkout with its DVC remote in the S3 store (keys come from the environment) and a machine.yaml.

    What is there already stays as a person left it; only the remote's address is written anew.
    """
    if not owns(folder):
        if folder.exists():
            raise InputError(f"{folder}: is no git checkout; remove it, and another is made")
        aside = Path(tempfile.mkdtemp(prefix="cloning-", dir=folder.parent))
        try:
            run_git(aside, "clone", "--quiet", "--branch", MAIN, str(origin(ground)), str(aside))
            run_git(aside, "config", "user.name", folder.name)
            run_git(aside, "config", "user.email", f"{folder.name}@localhost")
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    _point_dvc(ground, folder)
    if machine and not (folder / "machine.yaml").exists():
        import yaml

        (folder / "machine.yaml").write_text(yaml.safe_dump(dict(machine), sort_keys=False))


def join(ground: Ground, folder: Path) -> None:
    """A clone in `folder`, or the stack's remote for the checkout that is there: what another remote was called stays,
    but is not the default any more.
    """
    if not owns(folder):
        have_clone(ground, folder, {})
        return
    _point_dvc(ground, folder, default=True)


def follow(folder: Path, tell: Callable[[str], None]) -> str:
    """Bring a checkout's code to origin's main where nobody changed it; its commit. Nothing may work in it."""
    run_git(folder, "fetch", "--quiet", "origin")
    try:
        if run_git(folder, "status", "--porcelain", "--untracked-files=no"):
            raise InputError("it has changes that are not committed")
        run_git(folder, "merge", "--quiet", "--ff-only", f"origin/{MAIN}")
    except InputError as error:
        tell(f"{folder}: stays at its commit: {error}")
    return run_git(folder, "rev-parse", "HEAD")


def _make_bare(folder: Path) -> None:
    """Whole or not at all."""
    aside = Path(tempfile.mkdtemp(prefix="origin-", dir=folder.parent))
    try:
        run_git(aside, "init", "--quiet", "--bare", f"--initial-branch={MAIN}", ".")
        for name, value in SETTINGS.items():
            run_git(aside, "config", name, value)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _point_dvc(ground: Ground, folder: Path, default: bool = False) -> None:
    from configobj import ConfigObj

    file = folder / ".dvc" / "config.local"
    config = ConfigObj(str(file) if file.is_file() else None, encoding="utf-8", interpolation=False)
    core = config.setdefault("core", {})
    if default or "remote" not in core:
        core["remote"] = REMOTE
    remote = config.setdefault(f'remote "{REMOTE}"', {})
    remote.update({"url": "s3://dvc/store", "endpointurl": ground.url("s3"), "region": REGION})
    config.filename = None
    text = b"\n".join(line.encode() if isinstance(line, str) else line for line in config.write())
    write_secret(file, os.fsdecode(text) + "\n")
