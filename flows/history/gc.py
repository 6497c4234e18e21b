"""`videollava gc`: what DVC's cache holds and nobody needs, how large it is, and its removal.

Needed is what the workspace, a branch, a tag, a saved retraining or a registered version names: that is asked of DVC
for each commit, of the registry for each version. A saved retraining may go once it is old and no version is of it; a
version's once it was deleted from the registry or archived, and no tag names it. Remotes are left alone: other clones
share them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.history.reasons import open_repo
from flows.history.tags import PRIVATE as VERSIONS
from flows.places.git import ask_git, run_git
from flows.places.lock import hold
from flows.storage import borrowers
from videollava.errors import InputError

if TYPE_CHECKING:
    from dvc.repo import Repo

    from videollava.registry import Version

__all__ = ["Keepsake", "Outlook", "add_arguments", "look", "remove", "run"]

DAYS = 30
SAVED = "refs/exps/"
PRIVATE = f"{VERSIONS}/"
INTERNAL = ("refs/exps/exec/", "refs/exps/celery/", "refs/exps/temp/")  # DVC's own, of experiments at work


@dataclass(frozen=True)
class Keepsake:
    """A commit beside the branches that somebody may need. ref: its name; why: why it may go, "" where it stays."""

    ref: str
    commit: str
    why: str = ""


@dataclass(frozen=True)
class Outlook:
    """What may go: refs, objects of DVC's cache (hashes), unfolded folders; bytes that this frees."""

    going: tuple[Keepsake, ...]
    kept: tuple[Keepsake, ...]
    objects: tuple[str, ...]
    folders: tuple[str, ...]
    bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `videollava gc`."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--dry-run", action="store_true", help="only say what would go (so it is without --yes)"
    )
    either.add_argument("--yes", action="store_true", help="remove it")
    parser.add_argument(
        "--older-than",
        type=int,
        default=DAYS,
        metavar="DAYS",
        help=f"saved retrainings that no version is of go after so many days (default: {DAYS})",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """Say what may go; remove it with --yes."""
    if options.older_than < 0:
        raise InputError(f"--older-than {options.older_than}: write a number of days from 0 on")
    root = Path.cwd()
    with ExitStack() as stack:
        for folder in (root, *borrowers(root)):  # what is at work needs what no commit names yet
            stack.enter_context(hold(folder, wait=0.0))
        outlook = look(root, options.older_than)
        if options.yes:
            remove(root, outlook)
    print(json.dumps(asdict(outlook), indent=2) if options.json else _in_words(outlook, options.yes))
    return 0


def look(root: Path, days: int = DAYS) -> Outlook:
    """What may go in the checkout `root`.

    InputError where git, DVC or the registry cannot say what is needed: nothing may go then.
    """
    if not (root / "dvc.yaml").is_file():
        raise InputError(f"{root}: no dvc.yaml; run from the repository root")
    with open_repo(root) as repo:
        _check_cache(repo)
        versions = _versions(root)
        refs = _judge(_refs(root), versions, _tagged(root) | _elsewhere(root), _ages(root), days)
        kept, going = [ref for ref in refs if not ref.why], [ref for ref in refs if ref.why]
        used = _used(repo, root, [ref.commit for ref in kept]) | _of_versions(repo, versions)
        objects = [oid for oid in repo.cache.local.all() if oid not in used]
        paths = [Path(repo.cache.local.oid_to_path(oid)) for oid in objects]
    folders = _unneeded(root, versions)
    weight = _weigh([*paths, *(file for folder in folders for file in folder.rglob("*") if file.is_file())])
    names = tuple(str(folder.relative_to(root)) for folder in folders)
    return Outlook(tuple(going), tuple(kept), tuple(objects), names, weight)


def remove(root: Path, outlook: Outlook) -> None:
    """Remove what `look` named: refs first, so that no ref is left whose files are gone."""
    import shutil

    for ref in outlook.going:
        run_git(root, "update-ref", "-d", ref.ref, ref.commit)  # only if it still is what was looked at
    with open_repo(root) as repo:
        odb = repo.cache.local
        # Folders' listings first: what is cut short leaves files that the next run finds, never half a folder.
        for oid in sorted(outlook.objects, key=lambda oid: not oid.endswith(".dir")):
            path = Path(odb.oid_to_path(oid))
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be removed ({error.strerror}); `videollava gc --yes` goes on from there"
                ) from error
    for name in outlook.folders:
        shutil.rmtree(root / name, ignore_errors=True)


def _check_cache(repo: Repo) -> None:
    """InputError where DVC's cache lies outside of the checkout: what others keep in it nobody here knows."""
    cache, own = Path(repo.cache.local.path).resolve(), Path(str(repo.dvc_dir)).resolve()
    if own not in cache.parents:
        raise InputError(
            f"{repo.root_dir}: DVC's cache is {cache} (cache.dir), and other checkouts may keep their files there: run "
            "it in the checkout that the cache is of, or `dvc gc --workspace --all-tags --all-experiments --projects "
            "FOLDER ..` with the folders of all others; nothing was removed"
        )


def _elsewhere(root: Path) -> set[str]:
    """Versions' commits that this checkout's registry cannot judge: of other worktrees, which count their own."""
    if (ask_git(root, "worktree", "list", "--porcelain") or "").count("worktree ") < 2:
        return set()
    return set(run_git(root, "for-each-ref", "--format=%(objectname)", PRIVATE).split())


def _at_hand(root: Path) -> list[str]:
    """Commits that no branch need have: what is checked out, here and in worktrees, and stashes."""
    trees = (ask_git(root, "worktree", "list", "--porcelain") or "").splitlines()
    heads = [line.removeprefix("HEAD ") for line in trees if line.startswith("HEAD ")]
    stashes = (ask_git(root, "reflog", "show", "--format=%H", "refs/stash") or "").split()
    return [commit for commit in (*heads, *stashes) if commit.strip("0")]


def _versions(root: Path) -> list[Version]:
    """Of every model in the registry: what the parameters name now is not all that was ever trained here."""
    from videollava import registry
    from videollava.params import load_params

    tracking = load_params(root / "params.yaml").tracking
    names = registry.list_models(root, tracking)
    return [
        version
        for name in names
        for version in registry.list_versions(root, tracking.model_copy(update={"model": name}))
    ]


def _refs(root: Path) -> list[Keepsake]:
    said = run_git(root, "for-each-ref", "--format=%(objectname) %(refname)", SAVED, PRIVATE)
    rows = [line.split(" ", 1) for line in said.splitlines()]
    return [Keepsake(ref, commit) for commit, ref in rows if not ref.startswith(INTERNAL)]


def _tagged(root: Path) -> set[str]:
    said = run_git(root, "for-each-ref", "--format=%(objectname) %(*objectname)", "refs/tags/", "refs/heads/")
    return {line.split()[-1] for line in said.splitlines()}  # of an annotated tag the commit


def _ages(root: Path) -> dict[str, float]:
    """Days since each saved commit was made."""
    said = run_git(root, "for-each-ref", "--format=%(objectname) %(committerdate:unix)", SAVED, PRIVATE)
    rows = [line.split() for line in said.splitlines()]
    return {row[0]: (time.time() - float(row[1])) / 86400 for row in rows if len(row) == 2}


def _judge(
    refs: Sequence[Keepsake],
    versions: Sequence[Version],
    tagged: set[str],
    ages: Mapping[str, float],
    days: int,
) -> list[Keepsake]:
    """Each with why it may go, if it may."""
    if not versions and any(ref.ref.startswith(PRIVATE) for ref in refs):
        raise InputError(
            "the registry has no version, and git has refs of some: another registry is set here (tracking.uri, "
            "MLFLOW_TRACKING_URI), or it was lost; nothing was removed"
        )
    there = {(version.name, version.number): version for version in versions}
    needed = set(tagged)
    found = []
    for ref in sorted(refs, key=lambda ref: not ref.ref.startswith(PRIVATE)):
        why = ""
        if ref.ref.startswith(PRIVATE):
            name, _, number = ref.ref.removeprefix(PRIVATE).rpartition("/")
            known = any(version.name == name for version in versions)
            version = there.get((name, int(number))) if number.isdigit() else None
            if known and version is None:
                why = f"version {number} was deleted from the registry"
            elif version is not None and version.archived and not version.aliases:
                why = f"version {number} is archived"
            if not why:
                needed.add(ref.commit)
        elif ref.commit not in needed and ages.get(ref.commit, 0.0) >= days:
            why = f"saved {ages[ref.commit]:.0f} days ago, and no version is of it"
        found.append(Keepsake(ref.ref, ref.commit, "" if ref.commit in needed else why))
    return found


def _used(repo: Repo, root: Path, commits: Sequence[str]) -> set[str]:
    """Hashes of what the workspaces, branches, tags, stashes and these commits name."""
    used: set[str] = set()
    has_commit = ask_git(root, "rev-parse", "--verify", "HEAD^{commit}") is not None
    revs = list(dict.fromkeys([*commits, *_at_hand(root)]))
    for objects in repo.used_objs(all_branches=has_commit, all_tags=has_commit, revs=revs or None).values():
        used |= {item.value for item in objects}
    for clone in borrowers(root):
        own = sorted(_tagged(clone) - _tagged(root))  # what was committed there
        with open_repo(clone) as other:
            for objects in other.used_objs(revs=own or None).values():
                used |= {item.value for item in objects}
    return used


def _of_versions(repo: Repo, versions: Iterable[Version]) -> set[str]:
    """Hashes of models, answers and encoders of registered versions, archived ones without an alias aside."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    used: set[str] = set()
    for version in versions:
        if version.archived and not version.aliases:
            continue
        for key in filter(None, (version.key, version.evaluation, version.encoders)):
            used.add(key)
            if key.endswith(".dir") and Path(repo.cache.local.oid_to_path(key)).is_file():
                tree = Tree.load(repo.cache.local, HashInfo("md5", key))
                used |= {entry.value for _, _, entry in tree}
    return used


def _unneeded(root: Path, versions: Sequence[Version]) -> list[Path]:
    """Unfolded models and encoders (.mlflow) that no version which stays has: they are made again when asked for."""
    staying = [version for version in versions if version.aliases or not version.archived]
    wanted = {version.manifest[:32] for version in staying}
    wanted |= {version.encoders.removesuffix(".dir") for version in staying}
    found = [path for name in ("models", "encoders") for path in sorted((root / ".mlflow" / name).glob("*"))]
    return [
        path
        for path in found
        if path.is_dir() and path.name not in wanted and not path.name.startswith("unfolding-")
    ]


def _weigh(paths: Iterable[Path]) -> int:
    """Bytes that the removal of these files frees: what has another name elsewhere stays on the disk."""
    names: dict[tuple[int, int], list[os.stat_result]] = {}
    for path in paths:
        try:
            state = path.lstat()
        except OSError:
            continue
        names.setdefault((state.st_dev, state.st_ino), []).append(state)
    return sum(states[0].st_size for states in names.values() if len(states) >= states[0].st_nlink)


def _in_words(outlook: Outlook, removed: bool) -> str:
    lines = [f"{ref.ref}: {ref.why}" for ref in outlook.going]
    lines += [f"{name}: no version that stays has it" for name in outlook.folders]
    size = _size(outlook.bytes)
    if not outlook.objects and not lines:
        return f"nothing to remove: all of DVC's cache is needed ({len(outlook.kept)} saved retrainings)"
    lines.append(f"{len(outlook.objects):,} objects of DVC's cache that nothing else names")
    if removed:
        return "\n".join([*lines, f"removed: {size} free"])
    return "\n".join([*lines, f"{size} would be free; nothing was removed, `videollava gc --yes` does it"])


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
