"""What a version is made of, gathered from where it is kept: git (its saved retraining), the registry, the trail.

Any of them may lack: a clone without the registry still tells what the tag holds, a version of before there were saved
retrainings what the registry knows. `lacks` says which and why; nothing is made up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flows.history.find import commit_of, find_in_git
from flows.history.made import Made, read_made
from flows.history.tags import PRIVATE, TAGS
from flows.places.git import ask_git
from videollava import registry
from videollava.errors import InputError
from videollava.params import Params, load_params
from videollava.registry import Move, Version

__all__ = ["Base", "Data", "Story", "read_params", "tell"]

MODELS = "locks/models"
LOCKS = "locks"


@dataclass(frozen=True)
class Data:
    """A source as its lock has it. sum: over names and sums of its files, of one that is drawn DVC's hash of it;
    licence: as the parameters state it.
    """

    name: str
    kind: str
    files: int
    bytes: int
    sum: str
    licence: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Base:
    """A model that training began from. revision: what its name meant."""

    stage: str
    name: str
    revision: str


@dataclass(frozen=True)
class Story:
    """All that is known of a version. number: 0 for a saved retraining that is no version.

    commit: of the saved retraining; baseline: the commit it stands on; changed: files of code that differ from that.
    """

    name: str
    number: int
    commit: str = ""
    ref: str = ""
    baseline: str = ""
    subject: str = ""
    changed: tuple[str, ...] = ()
    made: Made | None = None
    version: Version | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[Data, ...] = ()
    bases: tuple[Base, ...] = ()
    decision: Mapping[str, Any] = field(default_factory=dict)
    moves: tuple[Move, ...] = ()
    lacks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """As it is written elsewhere."""
        return f"models:/{self.name}/{self.number}" if self.number else (self.ref or self.commit[:12])

    @property
    def scores(self) -> Mapping[str, Mapping[str, Any]]:
        """metrics.json as it was."""
        if self.made is not None and self.made.scores:
            return self.made.scores
        return self.version.metrics if self.version is not None else {}


def tell(root: Path, reference: str) -> Story:
    """The story of a version: a number, an alias, models:/NAME/N, or a tag or commit of a saved retraining.

    InputError where neither git nor the registry knows it.
    """
    params = load_params(root / "params.yaml")
    version, moves, trouble = _ask_registry(
        root, params, _version_named(root, params, reference) or reference
    )
    commit, known, lacking = _find(root, params, reference, version)
    if version is None and not commit:
        raise InputError("; ".join(filter(None, (lacking, trouble))))
    name, _, number = (f"{version.name}/{version.number}" if version is not None else known).rpartition("/")
    made, lacks = None, [line for line in (trouble, lacking) if line]
    if commit:
        try:
            made = read_made(root, commit)
        except InputError as error:
            lacks.append(str(error))
    return Story(
        name=name or params.tracking.model,
        number=int(number or 0),
        commit=commit,
        ref=_ref(root, commit) if commit else "",
        baseline=ask_git(root, "rev-parse", "--verify", f"{commit}^") or "" if commit else "",
        subject=ask_git(root, "log", "-1", "--format=%s", f"{commit}^") or "" if commit else "",
        changed=_changed(root, commit) if commit else (),
        made=made,
        version=version,
        params=read_params(root, commit) if commit else {},
        data=_read_data(root, commit) if commit else (),
        bases=_read_bases(root, commit) if commit else (),
        decision=version.decision if version is not None else {},
        moves=tuple(move for move in moves if move.to == int(number or 0)),
        lacks=tuple(lacks),
    )


def read_params(root: Path, commit: str) -> dict[str, Any]:
    """params.yaml of a commit; empty where it has none."""
    return _mapping(ask_git(root, "cat-file", "blob", f"{commit}:params.yaml"))


def _ask_registry(root: Path, params: Params, reference: str) -> tuple[Version | None, Sequence[Move], str]:
    """The version, the trail, and why there is none."""
    if reference.startswith("model/"):  # a tag's name
        reference = f"models:/{reference.removeprefix('model/')}"
    try:
        version = registry.find_version(root, params.tracking, reference)
        tracking = params.tracking.model_copy(update={"model": version.name})
        return version, registry.trail(root, tracking), ""
    except InputError as error:
        return None, (), str(error)


def _version_named(root: Path, params: Params, reference: str) -> str:
    """The version that an experiment's name or a commit is kept as here, "" where it is of none."""
    try:
        found = find_in_git(root, params.tracking, reference)
    except InputError:  # told once the registry was asked too
        return ""
    if found is None or found.version:
        return f"models:/{found.version}" if found is not None else ""
    ref = _ref(root, found.commit)
    return next(
        (f"models:/{ref[len(start) + 1 :]}" for start in (TAGS, PRIVATE) if ref.startswith(start)), ""
    )


def _find(root: Path, params: Params, reference: str, version: Version | None) -> tuple[str, str, str]:
    """The saved retraining, what version git says it is of ("NAME/N"), and why there is no such commit here."""
    try:
        found = find_in_git(root, params.tracking, reference if version is None else version.reference)
        if found is None and version is not None:
            found = commit_of(root, version)
    except InputError as error:
        return "", "", str(error)
    return (found.commit, found.version, "") if found is not None else ("", "", "")


def _ref(root: Path, commit: str) -> str:
    """What names the commit in git: a version's name before an experiment's."""
    said = ask_git(
        root, "for-each-ref", "--format=%(refname)", f"--points-at={commit}", TAGS, PRIVATE, "refs/exps"
    )
    return next(
        (ref for start in (TAGS, PRIVATE, "") for ref in (said or "").split() if ref.startswith(start)), ""
    )


def _changed(root: Path, commit: str) -> tuple[str, ...]:
    """Files of code in a saved retraining that its baseline has not, or has otherwise."""
    said = ask_git(root, "diff", "--name-only", f"{commit}^", commit, "--", "*.py") or ""
    return tuple(said.splitlines())


def _read_data(root: Path, commit: str) -> tuple[Data, ...]:
    import hashlib

    found = []
    made = _outputs(root, commit)
    for name, source in (read_params(root, commit).get("sources") or {}).items():
        lock = _json(ask_git(root, "cat-file", "blob", f"{commit}:{LOCKS}/{name}.json"))
        files = lock.get("files") or []
        sums = "\n".join(f"{file.get('name')} {file.get('sha256')}" for file in files)
        out = made.get(f"data/raw/{name}", {})  # of what is drawn here no lock knows a sum beforehand
        found.append(
            Data(
                name=name,
                kind=str(source.get("kind", "")),
                files=len(files) or int(out.get("nfiles") or 0),
                bytes=sum(int(file.get("size") or 0) for file in files) or int(out.get("size") or 0),
                sum=hashlib.sha256(sums.encode()).hexdigest() if files else str(out.get("md5") or ""),
                licence=str(source.get("licence", "")),
                origin=_origin(source),
            )
        )
    return tuple(found)


def _outputs(root: Path, commit: str) -> dict[str, dict[str, Any]]:
    """What dvc.lock of a commit says of each output, by path."""
    stages = _mapping(ask_git(root, "cat-file", "blob", f"{commit}:dvc.lock")).get("stages") or {}
    return {out["path"]: out for entry in stages.values() for out in entry.get("outs") or ()}


def _origin(source: Mapping[str, Any]) -> str:
    """Where a source comes from, in a word or an address."""
    urls = source.get("urls") or ()
    first = urls if isinstance(urls, str) else next(iter(urls), "")
    return str(first or source.get("repo") or source.get("package") or source.get("path") or "")


def _read_bases(root: Path, commit: str) -> tuple[Base, ...]:
    listed = ask_git(root, "ls-tree", "--name-only", f"{commit}:{MODELS}") or ""
    found = []
    for file in listed.splitlines():
        rows = _json(ask_git(root, "cat-file", "blob", f"{commit}:{MODELS}/{file}"))
        found += [Base(file.removesuffix(".json"), name, str(revision)) for name, revision in rows.items()]
    return tuple(found)


def _json(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _mapping(text: str | None) -> dict[str, Any]:
    found = yaml.safe_load(text or "")
    return found if isinstance(found, dict) else {}
