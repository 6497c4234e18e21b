"""Versions in the MLflow registry: made by reference, listed with scores and lineage, resolved to folders."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.params import Params, Tracking, load_params
from videollava.registry.manifest import (
    Manifest,
    Store,
    folder_key,
    materialise,
    model_cache,
    read_manifest,
    stores,
)
from videollava.tracking.lineage import Lineage, flatten, library_versions, read_lineage, scrub, stage_key

__all__ = [
    "CHAMPION",
    "PREVIOUS",
    "Version",
    "find_version",
    "list_versions",
    "open_store",
    "read_metrics",
    "register",
    "registered",
    "resolve",
    "version_manifest",
]

CHAMPION = "champion"
PREVIOUS = "previous"
CODE = Path(__file__).parent.parent / "serve" / "pyfunc.py"
REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/]+)|/(?P<version>\d+))")
REQUIREMENTS = ("videollava", "torch", "transformers", "pillow", "decord", "safetensors")


@dataclass(frozen=True)
class Version:
    """One version: number, aliases, metrics.json as it was, lineage, the MLflow run it belongs to.

    key, evaluation: DVC's hashes of the model's and of the evaluation's folder.
    """

    name: str
    number: int
    run_id: str
    created: int
    aliases: tuple[str, ...] = ()
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lineage: Lineage = field(default_factory=Lineage)
    key: str = ""
    evaluation: str = ""

    @property
    def reference(self) -> str:
        """The address that `resolve` and MLflow take."""
        return f"models:/{self.name}/{self.number}"


def open_store(workspace: Path, tracking: Tracking) -> Any:
    """The tracking store (videollava.tracking.forward.Store) that holds the registry too.

    InputError where it does not answer.
    """
    from videollava.tracking.forward import connect, tracking_uri

    try:
        return connect(workspace, tracking)
    except Exception as error:
        from mlflow.exceptions import (
            MlflowException,
        )  # not sooner: `connect` sets MLflow up before it is imported

        if not isinstance(error, MlflowException | OSError):
            raise
        where, reason = tracking_uri(workspace, tracking), str(error).partition("\n")[0][:300]
        raise InputError(scrub(f"the model registry at {where} does not answer: {reason}")) from error


def read_metrics(workspace: Path) -> dict[str, dict[str, Any]]:
    """metrics.json of the workspace; InputError where there is none."""
    file = workspace / "metrics.json"
    if not file.is_file():
        raise InputError(f"{file}: not found; run the evaluate stage first (`dvc repro`)")
    return dict(json.loads(file.read_text()))


def registered(workspace: Path, tracking: Tracking, store: Any = None) -> Version | None:
    """The version made of what lies in the workspace (same model files, same dvc.lock), if any."""
    store = store or open_store(workspace, tracking)
    lock = read_lineage(workspace).lock
    wanted = (folder_key(workspace), lock)
    found = (v for v in list_versions(workspace, tracking, store) if (v.key, v.lineage.lock) == wanted)
    return next(found, None)


def register(workspace: Path, params: Params, run_id: str = "", store: Any = None) -> tuple[Version, bool]:
    """Make a version of the workspace's model, unless there is one of the same files and dvc.lock already.

    run_id: the MLflow run it belongs to (the retraining's); without one, the run of the evaluate stage or a
    new one. Returns the version and whether it is new. No weights are copied: see manifest.py.
    """
    store = store or open_store(workspace, params.tracking)
    existing = registered(workspace, params.tracking, store)
    if existing is not None:
        return existing, False
    manifest = read_manifest(workspace, folder_key(workspace))
    metrics, lineage = read_metrics(workspace), read_lineage(workspace)
    run_id = run_id or _run_for(store, workspace, lineage)
    _log_scores(store, run_id, metrics)
    _make_model(store, params.tracking.model)
    info = _log_model(store, params.tracking.model, run_id, manifest, stores(workspace))
    created = store.client.create_model_version(
        params.tracking.model,
        source=info.model_uri,
        run_id=run_id,
        model_id=info.model_id,
        tags=_tags(manifest, lineage, metrics, params) | _evaluation_tag(workspace),
        description=_description(metrics),
    )
    return _version(created), True


def list_versions(workspace: Path, tracking: Tracking, store: Any = None) -> list[Version]:
    """All versions, newest first, each with its aliases."""
    store = store or open_store(workspace, tracking)
    found: list[Version] = []
    token = None
    while True:
        page = store.client.search_model_versions(
            f"name = '{tracking.model}'", max_results=200, page_token=token
        )
        found += [_version(item) for item in page]
        token = page.token
        if not token:
            break
    aliases = _aliases(store.client, tracking.model)
    found = [_with_aliases(version, aliases) for version in found]
    return sorted(found, key=lambda version: -version.number)


def find_version(workspace: Path, tracking: Tracking, reference: str, store: Any = None) -> Version:
    """`models:/NAME@ALIAS`, `models:/NAME/3`, or of our own model `3`, an alias, or "" (the newest).

    InputError where there is none.
    """
    from mlflow.exceptions import MlflowException

    store = store or open_store(workspace, tracking)
    if not reference:
        found = list_versions(workspace, tracking, store)
        if not found:
            raise InputError(
                f"no version of {tracking.model} in the registry at {store.uri}; `make retrain` makes one"
            )
        return found[0]
    name, alias, number = _parse(reference, tracking.model)
    try:
        if alias:
            item = store.client.get_model_version_by_alias(name, alias)
        else:
            item = store.client.get_model_version(name, number)
    except MlflowException as error:
        raise InputError(
            f"{reference}: not in the registry at {store.uri}; `videollava models` lists it"
        ) from error
    return _with_aliases(_version(item), _aliases(store.client, name))


def resolve(reference: str, workspace: Path = Path("."), tracking: Tracking | None = None) -> Path:
    """A folder with the model: a folder as it is, or a registered version's files linked together (or
    downloaded).

    InputError where the version is unknown or none of its stores holds a file.
    """
    if not reference.startswith("models:/"):
        folder = Path(reference)
        if not (folder / "config.json").is_file():
            raise InputError(
                f"{reference}: no config.json in there; give a model folder or models:/videollava@champion"
            )
        return folder
    if tracking is None:
        file = workspace / "params.yaml"
        tracking = load_params(file).tracking if file.is_file() else Tracking()
    manifest, places = version_manifest(workspace, tracking, reference)
    return materialise(manifest, [*places, *stores(workspace)], model_cache(workspace))


def version_manifest(workspace: Path, tracking: Tracking, reference: str) -> tuple[Manifest, list[Store]]:
    """The files of a registered version, and the stores it was registered with."""
    version = find_version(workspace, tracking, reference)
    from mlflow.models import get_model_info

    flavor = get_model_info(version.reference).flavors.get("python_function") or {}
    config = flavor.get("config") or {}
    return Manifest.from_config(config), [Store(**place) for place in config["stores"]]


def _parse(reference: str, model: str) -> tuple[str, str, str]:
    if match := REFERENCE.fullmatch(reference):
        return match["name"], match["alias"] or "", match["version"] or ""
    if reference.isdigit():
        return model, "", reference
    if re.fullmatch(r"[\w-]+", reference):
        return model, reference, ""
    raise InputError(
        f"{reference!r}: write models:/{model}@champion, models:/{model}/3, a version number or an alias"
    )


def _run_for(store: Any, workspace: Path, lineage: Lineage) -> str:
    from videollava.tracking.forward import find_run

    key = stage_key(workspace, "evaluate")
    found = find_run(store, stage_key=key) if key else ""
    if found:
        return found
    run = store.client.create_run(
        store.experiment, tags=lineage.tags() | library_versions(), run_name="register"
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


def _log_model(store: Any, name: str, run_id: str, manifest: Manifest, places: list[Store]) -> Any:
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
    return {
        "key": manifest.key,
        "manifest_sha256": manifest.sha256,
        "profile": params.profile,
        "metrics": json.dumps(metrics, sort_keys=True),
        **scores,
        **lineage.tags(),
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


def _version(item: Any) -> Version:
    tags = item.tags or {}
    lineage = Lineage(
        commit=tags.get("commit", ""),
        dirty=tags.get("dirty") == "true",
        params=tags.get("params_hash", ""),
        lock=tags.get("lock_hash", ""),
        data=tags.get("data_hash", ""),
    )
    return Version(
        name=item.name,
        number=int(item.version),
        run_id=item.run_id or "",
        created=int(item.creation_timestamp or 0),
        metrics=json.loads(tags.get("metrics") or "{}"),
        lineage=lineage,
        key=tags.get("key", ""),
        evaluation=tags.get("evaluation", ""),
    )


def _aliases(client: Any, name: str) -> dict[str, int]:
    from mlflow.exceptions import MlflowException

    try:
        return {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def _with_aliases(version: Version, aliases: Mapping[str, int]) -> Version:
    from dataclasses import replace

    mine = tuple(sorted(alias for alias, number in aliases.items() if number == version.number))
    return replace(version, aliases=mine)
