"""DVC's run-cache, an entry at a time: DVC itself sends and brings all runs there ever were, for each stage again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.history.reasons import open_repo
from videollava.tracking.lineage import lock_entry

if TYPE_CHECKING:
    from dvc.repo import Repo

__all__ = ["cache_key", "read_runs", "send_runs"]


def cache_key(entry: Mapping[str, Any]) -> str:
    """DVC's name there of what ran with the inputs of this entry of dvc.lock; its outputs may be paths alone."""
    from dvc.stage.cache import _get_cache_hash

    held = copy.deepcopy(dict(entry))
    held["outs"] = [
        {"path": out["path"] if isinstance(out, Mapping) else out} for out in held.get("outs") or ()
    ]
    return str(_get_cache_hash(held, key=True))


def read_runs(repo: Repo, key: str) -> Iterator[dict[str, Any]]:
    """Entries of dvc.lock that ran with these inputs: those known here, then those on the default remote."""
    from dvc.utils.serialize import load_yaml, parse_yaml

    for file in _here(repo, key):
        yield dict(load_yaml(str(file)))
    remote = repo.cloud.get_remote()
    folder = remote.fs.join(remote.path, "runs", key[:2], key)
    for path in sorted(remote.fs.find(folder)) if remote.fs.exists(folder) else ():
        yield dict(parse_yaml(remote.fs.cat_file(path).decode(), path))


def send_runs(workspace: Path, stages: Sequence[str]) -> None:
    """Put what ran here with the inputs that dvc.lock names on the default remote. Raises what the remote does."""
    with open_repo(workspace) as repo:
        remote = repo.cloud.get_remote()
        if remote.fs.protocol in ("http", "https"):  # DVC keeps no runs there either
            return
        for key in [cache_key(entry) for stage in stages if (entry := lock_entry(workspace, stage))]:
            for file in _here(repo, key):
                place = remote.fs.join(remote.path, "runs", key[:2], key, file.name)
                remote.fs.makedirs(remote.fs.parent(place))
                remote.fs.put_file(str(file), place)


def _here(repo: Repo, key: str) -> list[Path]:
    folder = Path(repo.stage_cache.cache_dir) / key[:2] / key
    return sorted(folder.iterdir()) if folder.is_dir() else []
