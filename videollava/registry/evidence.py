"""A version's answers, question by question, as its evaluate stage left them: the gate's paired tests are made of them.

They lie in DVC's stores under the hash of `evaluation/` that the version carries.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.params import Params, Tracking
from videollava.registry.manifest import cache_of, have_object, materialise, model_cache, read_manifest
from videollava.registry.store import Store
from videollava.registry.versions import Version, open_store, version_manifest
from videollava.tracking.troubles import is_from_store

__all__ = ["answers_folder", "comparison_page", "later_answers"]


def answers_folder(
    workspace: Path, tracking: Tracking, version: Version, places: Sequence[Store] = ()
) -> Path | None:
    """The version's evaluation folder (predictions/, metrics.json), None where no store has it whole.

    Looked for in DVC's cache, in `places`, and last where the version was registered with.
    """
    if not version.evaluation:
        return None
    for more in (lambda: places, lambda: version_manifest(workspace, tracking, version.reference)[1]):
        try:
            return _unfold(workspace, version.evaluation, more())
        except (InputError, ValueError, KeyError, TypeError):  # a listing that is damaged is no JSON of ours
            continue
    return None


def later_answers(
    workspace: Path, tracking: Tracking, version: Version, asked: Mapping[str, Mapping[str, Any]]
) -> list[Path]:
    """Folders of the version's later evaluations on questions of `asked` (metrics.json), newest first; those that are
    not to be had are left out.
    """
    wanted = {one["questions"] for one in asked.values() if one.get("questions")}
    folders = model_cache(workspace).with_name("evaluations")
    found = []
    for stamp in sorted(version.later, reverse=True):
        if wanted.isdisjoint(one.get("questions") for one in version.later[stamp].values()):
            continue
        folder = folders / f"later-{version.run_id}-{stamp}"
        if folder.is_dir() or _download(workspace, tracking, version, stamp, folder):
            found.append(folder)
    return found


def _download(workspace: Path, tracking: Tracking, version: Version, stamp: str, folder: Path) -> bool:
    """Aside and renamed: half a download is none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    client = open_store(workspace, tracking).client
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        try:
            got = Path(client.download_artifacts(version.run_id, f"evaluated/{stamp}", aside))
        except Exception as error:
            if not is_from_store(error):
                raise
            return False
        if not (got / "predictions").is_dir():
            return False
        with suppress(OSError):  # another process was faster
            got.rename(folder)
    return folder.is_dir()


def _unfold(workspace: Path, key: str, places: Sequence[Store]) -> Path:
    known = [cache_of(workspace), *places]
    objects = model_cache(workspace).with_name("objects")
    for row in json.loads(have_object(objects, key, known).read_text()):
        have_object(objects, row["md5"], known)
    folders = model_cache(workspace).with_name("evaluations")
    return materialise(read_manifest(objects, key), [Store(str(objects))], folders)


def comparison_page(
    workspace: Path, params: Params, version: Version, live: Version | None, places: Sequence[Store] = ()
) -> Path | None:
    """The report of `version` beside the champion's answers; None where either's are not to be had.

    InputError where they cannot be read.
    """
    from videollava.evaluate.report import write_report

    if live is None or live.number == version.number:
        return None
    mine, theirs = (answers_folder(workspace, params.tracking, one, places) for one in (version, live))
    if mine is None or theirs is None:
        return None
    page = mine / f"against-version-{live.number}.html"
    return write_report(workspace, params, version.metrics, page, champion=theirs)
