"""A version's answers, question by question, as its evaluate stage left them: the gate's paired tests are made of them.

They lie in DVC's stores under the hash of `evaluation/` that the version carries.
"""

from __future__ import annotations

import json
from pathlib import Path

from videollava.errors import InputError
from videollava.params import Params
from videollava.registry.manifest import have_object, materialise, model_cache, read_manifest, stores
from videollava.registry.versions import Version

__all__ = ["answers_folder", "comparison_page"]


def answers_folder(workspace: Path, version: Version) -> Path | None:
    """The version's evaluation folder (predictions/, metrics.json), None where no store has it whole."""
    if not version.evaluation:
        return None
    try:
        for row in json.loads(have_object(workspace, version.evaluation).read_text()):
            have_object(workspace, row["md5"])
        manifest = read_manifest(workspace, version.evaluation)
        return materialise(manifest, stores(workspace), model_cache(workspace).with_name("evaluations"))
    except (InputError, ValueError):  # a listing that is damaged is no JSON
        return None


def comparison_page(workspace: Path, params: Params, version: Version, live: Version | None) -> Path | None:
    """The report of `version` beside the champion's answers; None where either's are not to be had.

    InputError where they cannot be read.
    """
    from videollava.evaluate.report import write_report

    if live is None or live.number == version.number:
        return None
    mine, theirs = answers_folder(workspace, version), answers_folder(workspace, live)
    if mine is None or theirs is None:
        return None
    page = mine / f"against-version-{live.number}.html"
    return write_report(workspace, params, version.metrics, page, champion=theirs)
