"""What the coordinator needs of outputs that were made elsewhere: scores and report whole, of the model a list of its
files. Weights stay on the remote.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from flows.history.reasons import open_repo
from flows.stages.graph import kept_stages, stage_outputs
from flows.storage import stores
from flows.team.entries import take_entries
from flows.team.shelf import Shelf, open_shelf
from videollava.errors import InputError
from videollava.registry.manifest import MODEL, Manifest, folder_key, read_manifest
from videollava.tracking.lineage import outs_of

__all__ = ["bring_results", "list_model"]


def list_model(root: Path, stages: Sequence[str]) -> None:
    """On a worker: of a model that one of `stages` made leave the list of its files, with SHA-256, on the remote."""
    for stage in stages:
        if MODEL in stage_outputs(root, stage):
            cache, key = Path(stores(root)[0].url), folder_key(root, stage)
            with open_shelf(root) as shelf, suppress(InputError):  # restored, and not here
                shelf.write(_name(key), json.dumps(read_manifest(cache, key).config(())).encode())


def bring_results(root: Path) -> Manifest | None:
    """Have the outputs of the stages that none reads lie in `root`; the list of the model's files, None where a worker
    left none: then the model is in DVC's cache.
    """
    from dvc_data.hashfile.hash_info import HashInfo

    model = _maker(root)
    with open_repo(root) as repo:
        if wanted := [name for name in kept_stages(root) - {model} if not _lies_here(root, name)]:
            repo.pull(targets=wanted)
        content = Shelf(repo).read(_name(folder_key(root, model)))
        if content is None:
            repo.fetch(targets=[model])
            return None
        manifest = Manifest.from_config(json.loads(content))
        small = [HashInfo("md5", file.md5) for file in manifest.files if file.path == "config.json"]
        repo.cloud.pull(small)
    return manifest


def _maker(root: Path) -> str:
    for name in kept_stages(root):
        if MODEL in stage_outputs(root, name):
            return name
    raise InputError(f"{root / 'dvc.yaml'}: no stage makes {MODEL}")


def _lies_here(root: Path, stage: str) -> bool:
    """By DVC's own word: what lies there is what dvc.lock names."""
    from flows.stages.stage import is_current

    there = all((root / out).exists() for out in outs_of(take_entries(root, [stage]).get(stage, {})))
    return there and is_current(root, stage)


def _name(key: str) -> str:
    return f"models/{key}.json"
