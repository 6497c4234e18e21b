"""A version made of what lies in the workspace: by reference to files in DVC's stores, no weights copied."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.params import Params, Tracking
from videollava.registry.manifest import Manifest, cache_of, folder_key, read_manifest
from videollava.registry.refusals import answered, is_missing
from videollava.registry.store import Store
from videollava.registry.versions import Version, list_versions, open_store, read_version
from videollava.scrub import scrub_all
from videollava.tracking.lineage import Lineage, flatten, read_lineage, stage_key
from videollava.tracking.packages import differing_tag, library_versions, package_tags
from videollava.tracking.troubles import explain, is_from_store

__all__ = ["note_evaluation", "note_saved", "prepare", "read_metrics", "register", "registered"]

CODE = Path(__file__).parent.parent / "serve" / "pyfunc.py"
REQUIREMENTS = ("videollava", "torch", "transformers", "pillow", "av", "safetensors")


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
    """The version made of what lies in the workspace (same model files, same dvc.lock), if any."""
    store = store or open_store(workspace, tracking)
    lock = read_lineage(workspace).lock
    wanted = (folder_key(workspace), lock)
    found = (v for v in list_versions(workspace, tracking, store) if (v.key, v.lineage.lock) == wanted)
    return next(found, None)


@answered
def register(
    workspace: Path,
    params: Params,
    run_id: str = "",
    store: Any = None,
    places: Sequence[Store] = (),
    saved: tuple[str, str] = ("", ""),
) -> tuple[Version, bool]:
    """Make a version of the workspace's model, unless there is one of the same files and dvc.lock already.

    run_id: the MLflow run it belongs to (the retraining's); without one (or where it was deleted), the run of
    the evaluate stage or a new one. places: where the files lie, DVC's cache first (flows/storage.py reads
    them), recorded with the version. saved: the git commit that the retraining was saved as, and its ref. Returns
    the version and whether it is new. No weights are copied: see manifest.py.
    """
    store = store or open_store(workspace, params.tracking)
    existing = registered(workspace, params.tracking, store)
    if existing is not None:
        return existing, False
    places = places or [cache_of(workspace)]
    manifest = read_manifest(Path(places[0].url), folder_key(workspace))
    metrics, lineage = read_metrics(workspace), read_lineage(workspace)
    run_id = run_id if _is_active(store, run_id) else _run_for(store, workspace, lineage)
    _log_scores(store, run_id, metrics)
    _make_model(store, params.tracking.model)
    tags = _tags(manifest, lineage, metrics, params) | _evaluation_tag(workspace) | differing_tag(workspace)
    if saved[0]:
        tags |= {"saved_commit": saved[0], "saved_ref": saved[1]}
    info = _log_model(store, params.tracking.model, run_id, manifest, places)
    created = store.client.create_model_version(
        params.tracking.model,
        source=info.model_uri,
        run_id=run_id,
        model_id=info.model_id,
        tags=tags,
        description=_description(metrics),
    )
    return read_version(created), True


def note_evaluation(
    workspace: Path, tracking: Tracking, version: Version, scores: Mapping[str, Any], out: Path
) -> list[str]:
    """Keep a later evaluation with a version: its scores on the version and its run, `out`/report.html with the
    run. What the store refuses comes back in words: one refusal keeps nothing else from arriving.
    """
    client = open_store(workspace, tracking).client
    stamp, report = int(time.time()), out / "report.html"
    tag = json.dumps(scrub_all(scores))

    def on_run() -> None:
        for name, text in flatten(scores).items():
            try:
                client.log_metric(version.run_id, f"evaluated.{name}", float(text), step=stamp)
            except ValueError:  # a judge's name is a word
                client.set_tag(version.run_id, f"evaluated.{name}", text)

    steps: dict[str, Callable[[], object]] = {
        "its scores were not kept with the version": lambda: client.set_model_version_tag(
            version.name, str(version.number), f"evaluated.{stamp}", tag
        ),
        "its scores were not kept with the run": on_run,
    }
    if report.is_file():
        steps["its report was not kept with the run"] = lambda: client.log_artifact(
            version.run_id, str(report), f"evaluated/{out.name}"
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


def _run_for(store: Any, workspace: Path, lineage: Lineage) -> str:
    from videollava.tracking.store import find_run

    key = stage_key(workspace, "evaluate")
    found = find_run(store, stage_key=key) if key else ""
    if found:
        return found
    run = store.client.create_run(
        store.experiment, tags=lineage.tags() | package_tags(workspace), run_name="register"
    )
    store.client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


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


def _log_model(store: Any, name: str, run_id: str, manifest: Manifest, places: Sequence[Store]) -> Any:
    versions = {k.removeprefix("version."): v for k, v in library_versions().items()}
    needs = [f"{need}=={versions[need].split('+')[0]}" if need in versions else need for need in REQUIREMENTS]
    with warnings.catch_warnings():
        # It warns about its own type hints on import, and asks for an example that it would load the model
        # for.
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        from mlflow.models import Model

        # Made here, not by Model.log, which would put it into the process's current experiment.
        logged = store.client.create_logged_model(store.experiment, name=name, source_run_id=run_id)
        try:
            return Model.log(
                artifact_path=None,
                name=name,
                model_id=logged.model_id,
                flavor=mlflow.pyfunc,
                run_id=run_id,
                python_model=str(CODE),
                model_config=manifest.config(places),
                signature=_signature(),
                pip_requirements=needs,
                metadata={"key": manifest.key, "manifest_sha256": manifest.sha256},
            )
        except Exception:
            with suppress(Exception):  # the refusal is what counts; half a model is nobody's
                store.client.delete_logged_model(logged.model_id)
            raise


def _signature() -> Any:
    """What the pyfunc takes and gives, shown in the registry and checked by `mlflow models serve`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    paths = AnyType()  # a list, one path or nothing: a stricter type refuses the empty cells of a mixed batch
    columns = [
        ColSpec("string", "question"),
        ColSpec(paths, "images", required=False),
        ColSpec(paths, "videos", required=False),
    ]
    return ModelSignature(Schema(columns), Schema([ColSpec("string", "answer")]))


def _tags(manifest: Manifest, lineage: Lineage, metrics: Mapping[str, Any], params: Params) -> dict[str, str]:
    scores = {f"score.{name}": text for name, text in flatten(metrics).items() if name.count(".") == 1}
    told = {"profile": params.profile, **scores, **lineage.tags()}
    return {
        "key": manifest.key,
        "manifest_sha256": manifest.sha256,
        "metrics": json.dumps(scrub_all(metrics), sort_keys=True),  # read again: no text to cut in
        **scrub_all(told),
    }


def _evaluation_tag(workspace: Path) -> dict[str, str]:
    """The answers behind the scores, for paired tests against later versions."""
    try:
        return {"evaluation": folder_key(workspace, "evaluate", "evaluation")}
    except InputError:
        return {}


def _description(metrics: Mapping[str, Any]) -> str:
    from videollava.gate import primary

    scores = {name: primary(values) for name, values in metrics.items()}
    return ", ".join(f"{name} {score:.2f}" for name, score in scores.items() if score is not None)
