"""A version made of what lies in the workspace: by reference to files in DVC's stores, no weights copied."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from videollava.errors import InputError
from videollava.params import Params, Tracking
from videollava.registry.claims import Claim
from videollava.registry.logged import log_model
from videollava.registry.manifest import Manifest, cache_of, folder_key, read_manifest, read_object
from videollava.registry.refusals import answered, is_missing
from videollava.registry.store import Store
from videollava.registry.versions import LATER, Version, find_version, open_store
from videollava.registry.whole.card import card_of, ranges_of, short_card
from videollava.registry.whole.wheel import code_of, pack_code
from videollava.scrub import scrub_all
from videollava.tracking.accepted import origin_key
from videollava.tracking.lineage import Lineage, flatten, read_lineage, stage_key
from videollava.tracking.packages import differing_tag, package_tags
from videollava.tracking.troubles import explain, is_from_store

__all__ = ["note_evaluation", "note_saved", "prepare", "read_metrics", "register", "registered"]

FOLDERS = {"evaluation": ("evaluate", "evaluation"), "encoders": ("align", "models/encoders")}


def read_metrics(workspace: Path) -> dict[str, dict[str, Any]]:
    """metrics.json of the workspace; InputError where there is none."""
    file = workspace / "metrics.json"
    if not file.is_file():
        raise InputError(f"{file}: not found; run the evaluate stage first (`dvc repro`)")
    try:
        return dict(json.loads(file.read_text()))
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON ({error}); run the evaluate stage again") from error


@answered
def prepare(workspace: Path, tracking: Tracking) -> None:
    """Have the registered model there before there is a version of it: a registry that takes none says so.

    A model that others made is written to as well: who may not change it may add no version either.
    """
    store = open_store(workspace, tracking)
    _make_model(store, tracking.model)
    store.client.set_registered_model_tag(tracking.model, "software", "videollava")


@answered
def registered(workspace: Path, tracking: Tracking, store: Any = None) -> Version | None:
    """The version made of what lies in the workspace (all outputs that dvc.lock names), if any."""
    store = store or open_store(workspace, tracking)
    claim = Claim.of(workspace)
    number = claim.find(store, tracking.model)
    return None if number is None else find_version(workspace, tracking, str(number), store)


@answered
def register(
    workspace: Path,
    params: Params,
    run_id: str = "",
    store: Any = None,
    places: Sequence[Store] = (),
    saved: tuple[str, str] = ("", ""),
    manifest: Manifest | None = None,
) -> tuple[Version, bool]:
    """Make a version of the workspace's model, unless there is one of the same outputs already.

    run_id: the MLflow run it belongs to (the retraining's); without one (or where it was deleted), the run of
    the evaluate stage or a new one. places: where the files lie, DVC's cache first (flows/storage.py reads
    them), recorded with the version. saved: the git commit that the retraining was saved as, and its ref. manifest: of
    the model's files, where they do not lie in DVC's cache here. Returns the version and whether it is new. No weights
    are copied: see manifest.py.
    """
    store = store or open_store(workspace, params.tracking)
    model, claim = params.tracking.model, Claim.of(workspace)
    mine = None
    if claim.find(store, model) is None:
        try:
            mine = _make_version(store, workspace, params, run_id, places, claim, saved, manifest)
        except Exception as error:
            # Another process that made the same version first clears away what is half made of it.
            if not is_from_store(error) or claim.find(store, model) is None:
                raise
    number = claim.settle(store, model)
    return find_version(workspace, params.tracking, str(number), store), number == mine


def _make_version(
    store: Any,
    workspace: Path,
    params: Params,
    run_id: str,
    places: Sequence[Store],
    claim: Claim,
    saved: tuple[str, str],
    manifest: Manifest | None,
) -> int:
    places = places or [cache_of(workspace)]
    key = folder_key(workspace)
    if manifest is None or manifest.key != key:
        manifest = read_manifest(Path(places[0].url), key)
    metrics, lineage = read_metrics(workspace), read_lineage(workspace)
    run_id = run_id if _is_active(store, run_id) else _run_for(store, workspace, lineage, claim)
    _log_scores(store, run_id, metrics)
    _make_model(store, params.tracking.model)
    tags = _tags(manifest, lineage, metrics, params) | _folder_tags(workspace) | differing_tag(workspace)
    tags |= claim.tags | ({"saved_commit": saved[0], "saved_ref": saved[1]} if saved[0] else {})
    ranges = ranges_of(workspace, metrics)
    config = read_object(Path(places[0].url), manifest, "config.json")
    with TemporaryDirectory() as aside:
        card = Path(aside) / "card.md"
        told = json.loads(config or b"{}")
        card.write_text(card_of(workspace, params, metrics, ranges, lineage, told))
        store.client.log_artifact(run_id, str(card))
        files = {"code": pack_code(code_of(workspace), workspace), "card": card}
        made = {"made": claim.digest}
        logged = log_model(store, params.tracking.model, run_id, manifest, places, files, made)
    created = store.client.create_model_version(
        params.tracking.model,
        source=logged.model_uri,
        run_id=run_id,
        model_id=logged.model_id,
        tags=tags,
        description=short_card(workspace, params, metrics, ranges),
    )
    return int(created.version)


def note_evaluation(
    workspace: Path, tracking: Tracking, version: Version, scores: Mapping[str, Any], out: Path
) -> list[str]:
    """Keep a later evaluation with a version: its scores on the version and its run, `out`/report.html and the answers
    with the run, where the gate finds them. What the store refuses comes back in words: one refusal keeps nothing
    else from arriving.
    """
    client = open_store(workspace, tracking).client
    stamp = int(time.time())
    while str(stamp) in version.later:
        stamp += 1
    tag = json.dumps(scrub_all(scores))

    def on_run() -> None:
        for name, text in flatten(scores).items():
            try:
                client.log_metric(version.run_id, f"evaluated.{name}", float(text), step=stamp)
            except ValueError:  # a judge's name is a word
                client.set_tag(version.run_id, f"evaluated.{name}", text)

    steps: dict[str, Callable[[], object]] = {
        "its scores were not kept with the version": lambda: client.set_model_version_tag(
            version.name, str(version.number), f"{LATER}{stamp}", tag
        ),
        "its scores were not kept with the run": on_run,
    }
    for name, what in (("report.html", "report"), ("metrics.json", "figures"), ("predictions", "answers")):
        if (out / name).exists():
            keep = client.log_artifacts if (out / name).is_dir() else client.log_artifact
            place = f"evaluated/{stamp}" + (f"/{name}" if (out / name).is_dir() else "")
            steps[f"its {what} were not kept with the run"] = partial(
                keep, version.run_id, str(out / name), place
            )
    refused = []
    for what, step in steps.items():
        try:
            step()
        except Exception as error:
            if not is_from_store(error):
                raise
            refused.append(f"{version.reference}: {what}: {explain(error).text}")
    return refused


@answered
def note_saved(workspace: Path, tracking: Tracking, version: Version, commit: str, ref: str) -> None:
    """Say with a version which git commit its retraining was saved as."""
    client = open_store(workspace, tracking).client
    for name, text in {"saved_ref": ref, "saved_commit": commit}.items():
        client.set_model_version_tag(version.name, str(version.number), name, text)


def _is_active(store: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(run_id) and store.client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if is_missing(error):
            return False
        raise


def _run_for(store: Any, workspace: Path, lineage: Lineage, claim: Claim) -> str:
    from videollava.tracking.store import find_run

    key = stage_key(workspace, "evaluate", origin_key(workspace, "evaluate"))
    found = find_run(store, stage_key=key) if key else ""
    if found:
        return found
    run_id = find_run(store, made=claim.digest)  # an earlier try's
    if not run_id:
        tags = lineage.tags() | package_tags(workspace) | {"made": claim.digest}
        run_id = str(store.client.create_run(store.experiment, tags=tags, run_name="register").info.run_id)
    store.client.set_terminated(run_id)
    return run_id


def _log_scores(store: Any, run_id: str, metrics: Mapping[str, Any]) -> None:
    for name, text in flatten(metrics).items():
        try:
            store.client.log_metric(run_id, name, float(text))
        except ValueError:  # a judge's name and the like: words are tags
            store.client.set_tag(run_id, f"metric.{name}", text)


def _make_model(store: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(
            name, description="Video-LLaVA, by reference to files in DVC's stores"
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tags(manifest: Manifest, lineage: Lineage, metrics: Mapping[str, Any], params: Params) -> dict[str, str]:
    scores = {f"score.{name}": text for name, text in flatten(metrics).items() if name.count(".") == 1}
    told = {"profile": params.profile, **scores, **lineage.tags()}
    return {
        "key": manifest.key,
        "manifest_sha256": manifest.sha256,
        "metrics": json.dumps(scrub_all(metrics), sort_keys=True),  # read again: no text to cut in
        **scrub_all(told),
    }


def _folder_tags(workspace: Path) -> dict[str, str]:
    """What else a version is asked for, by its folder's hash: the answers behind the scores, for paired tests against
    later versions; the encoders with their language side, which the model has not.
    """
    tags = {}
    for name, (stage, out) in FOLDERS.items():
        with suppress(InputError):
            tags[name] = folder_key(workspace, stage, out)
    return tags
