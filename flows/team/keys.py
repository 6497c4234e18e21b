"""What stages read, in DVC's terms, whether data lie here or not; and keys that are equal where the work is.

Code and parameters are read as they lie in the workspace; an output of another stage is what dvc.lock says it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.history.reasons import open_repo, pipeline
from flows.team.entries import Entry
from videollava.tracking.lineage import digest

if TYPE_CHECKING:
    from dvc.repo import Repo

__all__ = ["DIGITS", "Inputs", "group_keys", "open_inputs"]

DIGITS = 24  # of a key: in names of refs and runs


@contextmanager
def open_inputs(root: Path) -> Iterator[Inputs]:
    """The inputs of the stages in `root`. InputError where DVC cannot read them."""
    with open_repo(root) as repo:
        yield Inputs(repo)


class Inputs:
    """What the stages of a workspace read. One reading of each file: for as long as nobody edits them."""

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        self._stages = pipeline(repo)
        self._makers = {out.fs_path: name for name, stage in self._stages.items() for out in stage.outs}
        self._read: dict[str, tuple[Any, Any]] = {}

    @property
    def names(self) -> list[str]:
        """Of the stages."""
        return list(self._stages)

    def entry(self, name: str, entries: Mapping[str, Entry]) -> Entry | None:
        """The stage's entry as it would stand in dvc.lock, its outputs by their paths alone; None where it reads what
        `entries` do not name, or what is not there.
        """
        from dvc.stage.serialize import to_single_stage_lockfile

        stage = self._stages[name]
        for dep in stage.deps:
            if not self._fill(dep, entries):
                return None
        for out in stage.outs:
            out.hash_info, out.meta = type(out.hash_info)(), type(out.meta)()
        made = to_single_stage_lockfile(stage)
        return {**made, "outs": [out["path"] for out in made.get("outs", ())]}

    def describe(self, name: str, entries: Mapping[str, Entry], among: Sequence[str]) -> Any:
        """What decides the stage's result, as plain values; an output of one `among` is named by who makes it."""
        rest = {other: entry for other, entry in entries.items() if other not in among}
        if found := self.entry(name, rest):
            return _plain(found)
        told: dict[str, Any] = {
            "cmd": self._stages[name].cmd,
            "outs": sorted(o.def_path for o in self._stages[name].outs),
        }
        for dep in self._stages[name].deps:
            maker = self._maker(dep.fs_path)
            if maker in among:
                told[f"dep {dep.def_path}"] = f"of {maker}"
            elif self._fill(dep, rest):
                told[f"dep {dep.def_path}"] = _told(dep)
            else:
                told[f"dep {dep.def_path}"] = "is not there"
        return told

    def _fill(self, dep: Any, entries: Mapping[str, Entry]) -> bool:
        """Have the dependency be what it is now; whether that is known."""
        maker = self._maker(dep.fs_path) if not _has_params(dep) else ""
        if maker:
            outs = entries.get(maker, {}).get("outs") or ()
            found = next((out for out in outs if out["path"] == dep.def_path and out.get("md5")), None)
            if found is None:
                return False
            _set(dep, found)
            return True
        if _has_params(dep):
            dep.save()
            return True
        if dep.fs_path not in self._read:
            if not dep.exists:
                return False
            dep.save()
            self._read[dep.fs_path] = dep.hash_info, dep.meta
        dep.hash_info, dep.meta = self._read[dep.fs_path]
        return True

    def _maker(self, path: str) -> str:
        """The stage that makes what lies at, above or below this path."""
        if path in self._makers:
            return self._makers[path]
        one = f"{path}/"
        return next(
            (
                name
                for out, name in self._makers.items()
                if one.startswith(f"{out}/") or f"{out}/".startswith(one)
            ),
            "",
        )


def group_keys(root: Path, stages: Sequence[str], entries: Mapping[str, Entry]) -> list[str]:
    """Keys of what `stages`, done one after the other, would make up to each of them: equal work has an equal key,
    whoever asks, in whichever commit. The last is the whole group's.
    """
    told: dict[str, Any] = {}
    keys = []
    with open_inputs(root) as inputs:
        for name in stages:
            told[name] = inputs.describe(name, entries, stages)
            keys.append(digest(told)[:DIGITS])
    return keys


def _set(dep: Any, found: Mapping[str, Any]) -> None:
    """As DVC's own loader fills a dependency from dvc.lock."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.meta import Meta

    info = {name: value for name, value in found.items() if name not in ("path", "hash")}
    dep.meta = Meta.from_dict(info)
    dep.hash_name = "md5" if found.get("hash") == "md5" else "md5-dos2unix"
    dep.hash_info = HashInfo(dep.hash_name, str(found["md5"]))


def _told(dep: Any) -> Any:
    value = dep.hash_info.value
    return _plain(value) if isinstance(value, Mapping) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items() if name not in ("size", "nfiles")}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _has_params(dep: Any) -> bool:
    from dvc.dependency.param import ParamsDependency

    return isinstance(dep, ParamsDependency)
