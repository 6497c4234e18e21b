"""Why a stage would run, asked of DVC's own objects: which parameter, package, code, data or output differs from what
dvc.lock has. Nothing is written and no lock is taken, so it may be asked while a retraining is at work.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.places.git import ask_git
from videollava.errors import InputError
from videollava.scrub import scrub
from videollava.tracking.lineage import PARAMS, flatten
from videollava.tracking.packages import LOCK

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

__all__ = [
    "Kind",
    "Reason",
    "can_restore",
    "fill_in",
    "in_words",
    "is_absent",
    "open_repo",
    "own_reasons",
    "pipeline",
]

Kind = Literal["never", "command", "parameter", "package", "code", "data", "output", "earlier"]
GONE = {"deleted": "is gone", "not in cache": "is not in the cache"}


@dataclass(frozen=True)
class Reason:
    """Why a stage runs. what: a parameter, a path, a stage. was, now: values of a parameter or package."""

    kind: Kind
    what: str
    text: str
    was: str = ""
    now: str = ""


@contextmanager
def open_repo(root: Path) -> Iterator[Repo]:
    """DVC's view of the checkout, from within it (DVC takes some paths from where the process is).

    Whatever DVC cannot read there is an InputError in one line.
    """
    from dvc.repo import Repo

    # It warns of each output that the workspace never made, and of locks of killed runs, which it removes.
    logging.getLogger("dvc").setLevel(logging.ERROR)
    inside = ask_git(root, "rev-parse", "--git-dir", above=True) is not None
    with (
        in_words(root),
        chdir(root),
        Repo(str(root), config=None if inside else {"core": {"no_scm": True}}) as repo,
    ):
        yield repo


@contextmanager
def in_words(root: Path) -> Iterator[None]:
    """What DVC cannot do in `root` as an InputError of one line, with what it came from."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc_objects.errors import ObjectFormatError

    try:
        yield
    except NotDvcRepoError as error:
        raise InputError(
            f"{root}: no .dvc folder in there; was the archive unpacked without hidden files?"
        ) from error
    except ObjectFormatError as error:  # DVC drops such an object from its cache when it finds it
        raise InputError(
            f"{root}: DVC's cache is damaged: {_whole(error)}; `dvc fetch` brings it from a remote, else "
            "`dvc commit` where its files lie, or let the stage run again"
        ) from error
    except DvcException as error:
        raise InputError(f"{root}: DVC cannot be asked: {_whole(error)}") from error


def pipeline(repo: Repo) -> dict[str, PipelineStage]:
    """The stages of dvc.yaml by name, in the file's order."""
    from dvc.stage import PipelineStage

    return {
        stage.name: stage for stage in repo.index.stages if isinstance(stage, PipelineStage) and stage.name
    }


def fill_in(stage: PipelineStage, entry: dict[str, Any] | None) -> None:
    """Have a stage that never ran here be as this entry of another dvc.lock has it."""
    from dvc.stage.loader import StageLoader

    if entry and not any(item.hash_info for item in (*stage.deps, *stage.outs)):
        StageLoader.fill_from_lock(stage, entry)
        stage.cmd_changed = entry.get("cmd") != stage.cmd


def own_reasons(stage: PipelineStage, made: Mapping[str, Output]) -> list[Reason]:
    """Why the stage runs by itself; empty where all is as dvc.lock has it. made: by path, the outputs of all stages."""
    from dvc.dependency import ParamsDependency

    if not any(item.hash_info for item in (*stage.deps, *stage.outs)):
        return [Reason("never", stage.name, "it never ran here")]
    found = (
        [Reason("command", "cmd", "its command in dvc.yaml is another one")] if stage.changed_stage() else []
    )
    for dep in stage.deps:
        found += _of_params(dep) if isinstance(dep, ParamsDependency) else _of_file(dep, made)
    for out in stage.outs:
        for state in out.status().values():
            told = GONE.get(state, "is not what the stage wrote")
            found.append(Reason("output", out.def_path, f"its output {out.def_path} {told}", now=state))
    return found


def can_restore(stage: PipelineStage, reasons: list[Reason]) -> bool:
    """Whether a run with these very inputs is known to DVC and its outputs are here. Changes what `stage` holds."""
    from dvc.exceptions import DvcException
    from dvc.stage.cache import RunCacheNotFoundError
    from dvc_data.hashfile.hash_info import HashInfo

    try:
        if any(reason.kind != "output" for reason in reasons):
            stage.save_deps()
            for out in stage.outs:
                out.hash_info = HashInfo()  # of another run
        stage.repo.stage_cache.restore(stage, dry=True)
    except (RunCacheNotFoundError, DvcException, OSError):
        return False
    return True


def is_absent(reasons: Sequence[Reason]) -> bool:
    """Whether nothing differs but that outputs are not here, nor in DVC's cache."""
    return bool(reasons) and all(one.kind == "output" and one.now in GONE for one in reasons)


def _of_params(dep: Any) -> list[Reason]:
    kind: Kind = "package" if dep.def_path == LOCK else "parameter"
    if not dep.exists:
        return [Reason(kind, dep.def_path, f"{dep.def_path} is gone")]
    locked, there = dep.hash_info.value or {}, dep.read_params()
    aside = "" if dep.def_path == PARAMS else f" ({dep.def_path})"
    found = []
    for name in dep.params:
        if name in locked and name in there and locked[name] == there[name]:
            continue
        was, now = (flatten(held[name], name) if name in held else {} for held in (locked, there))
        for key in sorted({key for key in was.keys() | now.keys() if was.get(key) != now.get(key)}):
            text = f"{key}: {_shown(was, key)} -> {_shown(now, key)}{aside}"
            found.append(Reason(kind, key, text, was.get(key, ""), now.get(key, "")))
    return found


def _shown(values: Mapping[str, str], key: str) -> str:
    return (values[key] or '""') if key in values else "nothing"


def _of_file(dep: Any, made: Mapping[str, Output]) -> list[Reason]:
    path = dep.def_path
    kind: Kind = "data" if path in made or not _is_code(Path(dep.fs_path)) else "code"
    if not dep.hash_info:
        return [Reason(kind, path, f"{kind} {path} is new among what it depends on")]
    states = list(dep.status().values())
    if path in made and "deleted" in states and dep.hash_info == made[path].hash_info:
        return []  # what it read; that it is not here is told of the stage that makes it
    return [Reason(kind, path, f"{kind} {path} {GONE.get(state, 'changed')}") for state in states]


def _is_code(path: Path) -> bool:
    if path.is_dir():
        return any(path.rglob("*.py"))
    return path.suffix == ".py"


def _whole(error: BaseException) -> str:
    """DVC's error with what it came from, on one line."""
    told: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        told += [text] if (text := " ".join(str(cause).split())) and text not in "".join(told) else []
        cause = cause.__cause__
    return scrub(": ".join(told))[:500].replace(os.getcwd() + os.sep, "")
