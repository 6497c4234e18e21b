"""A retraining kept in git as a whole: saved where it ran, brought to the checkout it is of, named after its version,
pushed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from flows.history.gather import gather
from flows.history.made import Made
from flows.history.save import Saved, save
from flows.history.snapshot import Snapshot
from flows.history.tags import PRIVATE, Named, name_version, version_refs
from flows.places.git import ask_git, run_git, settings_for_remotes
from videollava import registry
from videollava.errors import InputError
from videollava.params import Params, Tracking
from videollava.tracking.store import Store, connect, find_run
from videollava.tracking.troubles import is_from_store

__all__ = ["bring_home", "is_kept", "keep", "make_up", "push_refs", "tie"]


def keep(
    root: Path,
    home: Path,
    params: Params,
    name: str = "",
    before: Snapshot | None = None,
    retraining: str = "",
    who: str = "",
) -> Saved:
    """Save the retraining in `root`, and have the repository `home` hold it: `root` may be a clone that is dropped.

    A retraining whose version is saved already stays what it was. before: the code when it began. retraining: the
    identity of its journal. who: the person it is for. InputError where it cannot be saved.
    """
    known = _kept_version(root, home, params.tracking) if before is not None else None
    if known:
        return known

    def made() -> Made:
        find = _finder(_store(root, params.tracking))
        return gather(root, params, find, find(retraining, "") if retraining else "", who)

    saved = save(root, made, name, before)
    bring_home(home, root, saved.ref)
    return saved


def bring_home(home: Path, root: Path, ref: str) -> None:
    """Fetch a ref of the clone `root` into the repository it is of: its objects too."""
    if _same_store(home, root):
        return
    words = (
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        "--no-recurse-submodules",
        "--no-auto-maintenance",
    )
    run_git(home, "fetch", *words, str(root.resolve()), f"{ref}:{ref}")


def is_kept(home: Path, commit: str) -> bool:
    """Whether a saved retraining is in this repository."""
    return bool(commit) and ask_git(home, "cat-file", "-e", f"{commit}^{{commit}}") is not None


def make_up(root: Path, params: Params, version: registry.Version) -> list[str]:
    """Save and name the version of what lies in `root`, where that was not done (or cut short); what was, in words.

    InputError where it cannot be saved.
    """
    names = version_refs(version.name, version.number)
    kept = is_kept(root, version.saved)
    if kept and any(ask_git(root, "rev-parse", "--verify", "--quiet", ref) for ref in names):
        return []
    saved = Saved(version.saved, version.saved_ref) if kept else keep(root, root, params)
    named = tie(root, root, params, version, saved)
    return [*saved.notes, named.note or f"version {version.number} is saved as {saved.commit[:12]}"]


def tie(home: Path, root: Path, params: Params, version: registry.Version, saved: Saved) -> Named:
    """Name the commit after its version in git, and the commit in the registry. A version stays what it was saved as,
    as long as that commit is here: saved once more beside other edits, it is the same retraining.
    """
    if version.saved != saved.commit and is_kept(home, version.saved):
        named = name_version(home, root, params.tracking, version.number, version.saved)
        told = f"version {version.number} stays the commit it was saved as first, {version.saved[:12]}"
        return replace(named, note=named.note or told)
    if version.saved != saved.commit:
        registry.note_saved(root, params.tracking, version, saved.commit, saved.ref)
    return name_version(home, root, params.tracking, version.number, saved.commit)


def push_refs(home: Path, remote: str, refs: Sequence[str]) -> list[str]:
    """Push saved retrainings and tags, private ones never; which were pushed.

    InputError, in git's words, where the remote is not reached or takes one of them not: it may hold another commit
    of that name. The others are there then.
    """
    public = [ref for ref in refs if not ref.startswith(PRIVATE)]
    if remote not in run_git(home, "remote").split():
        raise InputError(
            f"machine.yaml: push_to is {remote!r}, and git has no such remote here; `git remote` lists them"
        )
    words = ("--quiet", "--no-verify", "--no-follow-tags", "--no-signed", "--recurse-submodules=no", remote)
    if public:
        pairs = [f"{ref}:{ref}" for ref in public]
        run_git(home, "push", *words, *pairs, settings=settings_for_remotes(home))
    return public


def _same_store(home: Path, root: Path) -> bool:
    places = [run_git(one, "rev-parse", "--path-format=absolute", "--git-common-dir") for one in (home, root)]
    return Path(places[0]).resolve() == Path(places[1]).resolve()


def _kept_version(root: Path, home: Path, tracking: Tracking) -> Saved | None:
    """What the version of these very outputs is saved as, where it is."""
    try:
        version = registry.registered(root, tracking)
    except InputError:  # whoever registers will say so
        return None
    if version is None or not is_kept(home, version.saved):
        return None
    return Saved(version.saved, version.saved_ref)


def _store(root: Path, tracking: Tracking) -> Store | None:
    try:
        store = connect(root, tracking)
        store.experiment  # noqa: B018  asks: a server that does not answer is not asked for every stage
    except Exception as error:
        if not isinstance(error, InputError) and not is_from_store(error):
            raise
        return None
    return store


def _finder(store: Store | None) -> Callable[[str, str], str]:
    def find(journal: str, key: str) -> str:
        if store is None:
            return ""
        try:
            return find_run(store, journal=journal) if journal else find_run(store, stage_key=key)
        except Exception as error:  # an id less is no reason to lose a training
            if not is_from_store(error):
                raise
            return ""

    return find
