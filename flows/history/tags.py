"""A registered version's name in git: the tag model/<name>/<n>, or a ref that stays here.

A fresh clone brings the tags of others, and every private registry counts from 1: so there is a tag only where the
registry is the one that the commit itself names, for all who clone it. A private registry's versions are refs that no
push takes. Either is made once and never moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.history.plumbing import make_ref
from flows.places.git import ask_git
from videollava.errors import InputError
from videollava.params import Tracking
from videollava.scrub import scrub
from videollava.tracking.store import tracking_uri

__all__ = ["PRIVATE", "TAGS", "Named", "is_shared", "name_version", "version_refs"]

TAGS = "refs/tags/model"
PRIVATE = "refs/videollava/model"


@dataclass(frozen=True)
class Named:
    """ref: what names the version's commit; tag: whether others get it; note: what a person should know, else ""."""

    ref: str
    tag: bool
    note: str = ""


def name_version(home: Path, root: Path, tracking: Tracking, number: int, commit: str) -> Named:
    """Name the saved retraining `commit` (in the repository `home`) after the version that was made of it in `root`.

    InputError where git takes no such name.
    """
    tag = is_shared(home, root, tracking, f"{commit}^")
    ref = f"{TAGS if tag else PRIVATE}/{tracking.model}/{number}"
    if ask_git(home, "check-ref-format", ref) is None:
        raise InputError(
            f"params.yaml: tracking.model is {tracking.model!r}, and git takes no such name for a tag"
        )
    made = make_ref(home, ref, commit)
    there = commit if made else ask_git(home, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    short = ref.removeprefix("refs/tags/")
    if there != commit:
        remedy = f"git tag -d {short}" if tag else f"git update-ref -d {ref}"
        return Named(
            ref,
            tag,
            f"{short} is another commit already ({(there or 'none')[:12]}), of a registry that counted to {number} "
            f"before; it stays, and version {number} is saved as {commit[:12]}; `{remedy}` and `videollava save` name "
            "it anew",
        )
    return Named(ref, tag)


def is_shared(home: Path, root: Path, tracking: Tracking, baseline: str) -> bool:
    """Whether the registry in use in `root` is a server's, and the one that params.yaml at `baseline` names.

    Neither the environment nor an override counts: who clones that commit has none of them.
    """
    import yaml

    text = ask_git(home, "cat-file", "blob", f"{baseline}:params.yaml") or ""
    try:
        committed = ((yaml.safe_load(text) or {}).get("tracking") or {}).get("uri") or ""
    except (yaml.YAMLError, AttributeError):
        return False
    local = committed.startswith(("sqlite:", "file:")) or (":" not in committed and committed != "databricks")
    return not local and _plain(committed) == _plain(tracking_uri(root, tracking))


def version_refs(model: str, number: int) -> tuple[str, str]:
    """The names that a version may have in git: its tag, its private ref."""
    return f"{TAGS}/{model}/{number}", f"{PRIVATE}/{model}/{number}"


def _plain(uri: str) -> str:
    return scrub(uri.strip()).rstrip("/")
