"""What DVC would run again in a folder, asked of DVC's own API: outputs need not be there.

An output that another stage reads is compared by its hash in dvc.lock; code, parameters and commands as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.history.reasons import in_words

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

__all__ = ["Graph", "Stale", "find_stale", "read_paths"]


@dataclass(frozen=True)
class Stale:
    """A stage that is not what dvc.lock says. path: the file that differs; word: how."""

    stage: str
    path: str
    word: str

    def describe(self) -> str:
        """In words."""
        return f"{self.path} {self.word} (stage {self.stage})"


@dataclass(frozen=True)
class Graph:
    """Paths from the folder on. code: what stages read and no stage writes; cached: outputs that DVC keeps;
    plain: outputs that git is to keep (cache: false); files: of parameters, stages and locks.
    """

    code: tuple[str, ...]
    cached: tuple[str, ...]
    plain: tuple[str, ...]
    files: tuple[str, ...]


def read_paths(folder: Path) -> Graph:
    """Which paths the stages in `folder` name. InputError where DVC cannot read them."""
    with _open(folder, None) as repo:
        return _graph(repo)


def _graph(repo: Repo) -> Graph:
    with in_words(Path(repo.root_dir)):
        outs = [out for stage in repo.index.stages for out in stage.outs if out.is_in_repo]
        made = {out.fs_path for out in outs}
        code, files = [], {"dvc.yaml", "dvc.lock"}
        for stage in repo.index.stages:
            files.add(_relative(repo, stage.path))
            for dep in stage.deps:
                if _has_params(dep):
                    files.add(_relative(repo, dep.fs_path))
                elif dep.is_in_repo and not _overlaps(dep.fs_path, made):
                    code.append(_relative(repo, dep.fs_path))
        cached = [_relative(repo, out.fs_path) for out in outs if out.use_cache]
        plain = [_relative(repo, out.fs_path) for out in outs if not out.use_cache]
    return Graph(*(tuple(dict.fromkeys(part)) for part in (code, cached, plain, sorted(files))))


def find_stale(folder: Path, aside: Path, bring: Callable[[Graph], None]) -> list[Stale]:
    """Where the stages of `folder` are not what its dvc.lock says, data that are not there aside.

    aside: where DVC keeps its notes about a folder that is no checkout of git. bring: puts the files that stages read
    into `folder`, which needs only those of DVC before.
    """
    with _open(folder, aside) as repo:
        bring(_graph(repo))
        made = {out.fs_path: out for stage in repo.index.stages for out in stage.outs}
        return [one for stage in repo.index.stages for one in _look(repo, stage, made)]


def _look(repo: Repo, stage: Stage, made: Mapping[str, Any]) -> Iterator[Stale]:
    name = getattr(stage, "name", None) or stage.addressing
    where = _relative(repo, stage.path)
    if any(not out.hash_info for out in stage.outs if out.use_cache):
        yield Stale(name, where, "names a stage or an output that was not made")
        return
    if getattr(stage, "cmd_changed", False):
        yield Stale(name, where, "gives another command than the one that ran")
    for dep in stage.deps:
        path = _relative(repo, dep.fs_path) if dep.is_in_repo else str(dep)
        if _has_params(dep):
            for key, word in _params(dep).items():
                yield Stale(name, path, f"has another {key} ({word})")
        elif not dep.hash_info:
            yield Stale(name, where, f"names {path}, which was not read when it ran")
        elif dep.fs_path in made:
            if dep.hash_info != made[dep.fs_path].hash_info:
                yield Stale(name, path, "was made again since it was read")
        elif dep.is_in_repo and not _overlaps(dep.fs_path, set(made)):
            for word in dep.workspace_status().values():
                yield Stale(name, path, "is not there" if word == "deleted" else "is not the one that ran")


def _params(dep: Any) -> dict[str, str]:
    status = dep.workspace_status().get(str(dep), {})
    return dict(status) if isinstance(status, Mapping) else {"file": str(status)}


def _has_params(dep: Any) -> bool:
    from dvc.dependency.param import ParamsDependency

    return isinstance(dep, ParamsDependency)


def _overlaps(path: str, others: set[str]) -> bool:
    one = path.rstrip("/") + "/"
    return any(one.startswith(f"{other}/") or f"{other}/".startswith(one) for other in others)


def _open(folder: Path, aside: Path | None) -> Repo:
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    config = {"core": {"no_scm": True, "site_cache_dir": str(aside)}} if aside else None
    with in_words(folder):
        return Repo(str(folder), config=config)


def _relative(repo: Repo, path: str) -> str:
    return Path(path).relative_to(Path(repo.root_dir)).as_posix()
