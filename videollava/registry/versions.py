"""Versions in the MLflow registry: listed with scores and lineage, found by name, resolved to folders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.params import Tracking, load_params
from videollava.registry.aliases import CHAMPION, PREVIOUS, read_aliases, settle
from videollava.registry.ledger import is_log
from videollava.registry.manifest import Manifest, cache_of, materialise, model_cache
from videollava.registry.refusals import answered, is_missing, refusal
from videollava.registry.store import Store
from videollava.tracking.lineage import Lineage
from videollava.tracking.troubles import explain, is_from_store

__all__ = [
    "DECISION",
    "LATER",
    "Version",
    "find_version",
    "list_models",
    "list_versions",
    "open_store",
    "read_version",
    "resolve",
    "version_artifact",
    "version_code",
    "version_manifest",
]

DECISION = "decision"  # tag: the gate's last decision on it
LATER = "evaluated."  # tags: evaluations after it was registered, by their time
COUNTS = ("n", "missing_media", "unasked", "invalid", "unjudged")  # of a benchmark's figures, whole numbers
LEAKS = ("media", "near", "both")  # the same of its contamination
REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Version:
    """One version: number, aliases, metrics.json as it was, lineage, the MLflow run it belongs to.

    key, evaluation, encoders: DVC's hashes of the model's, the evaluation's and the encoders' folder. manifest: hash
    over the model's files (manifest.py), whose first 32 digits name its unfolded folder. saved, saved_ref: the git
    commit that the retraining was saved as, and the ref it had. tags: all as MLflow has them. remarks: what a person
    should know of it (no commit, archived, not made by this software, a tag that cannot be read).
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
    encoders: str = ""
    manifest: str = ""
    saved: str = ""
    saved_ref: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    archived: bool = False

    @property
    def later(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Scores of evaluations after it was registered, by their stamp."""
        return {
            name.removeprefix(LATER): _metrics(text) or {}
            for name, text in self.tags.items()
            if name.startswith(LATER)
        }

    @property
    def decision(self) -> dict[str, Any]:
        """The gate's last decision on it (gate.Decision.as_dict), {} where it was never judged."""
        return _decision(self.tags.get(DECISION))

    @property
    def reference(self) -> str:
        """The address that `resolve` and MLflow take."""
        return f"models:/{self.name}/{self.number}"


def open_store(workspace: Path, tracking: Tracking) -> Any:
    """The tracking store (videollava.tracking.store.Store) that holds the registry too.

    InputError where it does not answer, or refuses.
    """
    from videollava.tracking.store import connect, tracking_uri

    try:
        return connect(workspace, tracking)
    except Exception as error:
        if not is_from_store(error) and not isinstance(error, ImportError):
            raise
        raise InputError(refusal(error, tracking_uri(workspace, tracking))) from error


@answered
def list_versions(workspace: Path, tracking: Tracking, store: Any = None) -> list[Version]:
    """All versions, newest first, each with its aliases."""
    store = store or open_store(workspace, tracking)
    settle(store.client, tracking.model)
    found: list[Version] = []
    token = None
    while True:
        page = store.client.search_model_versions(
            f"name = '{tracking.model}'", max_results=200, page_token=token
        )
        found += [read_version(item) for item in page]
        token = page.token
        if not token:
            break
    aliases = read_aliases(store.client, tracking.model)
    found = [_with_aliases(version, aliases) for version in found]
    return sorted(found, key=lambda version: -version.number)


@answered
def list_models(workspace: Path, tracking: Tracking, store: Any = None) -> list[str]:
    """Names of all registered models in the registry, whoever made them; the trails of others are none."""
    store = store or open_store(workspace, tracking)
    found: list[str] = []
    token = None
    while True:
        page = store.client.search_registered_models(max_results=200, page_token=token)
        found += [str(item.name) for item in page if not is_log(item)]
        token = page.token
        if not token:
            return sorted(found)


@answered
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
    if alias in (CHAMPION, PREVIOUS):
        settle(store.client, name)
    try:
        if alias:
            item = store.client.get_model_version_by_alias(name, alias)
        else:
            item = store.client.get_model_version(name, number)
    except MlflowException as error:
        if not is_missing(error):
            raise
        raise InputError(
            f"{reference}: not in the registry at {store.uri} (never made, or deleted); `videollava models` lists it"
        ) from error
    return _with_aliases(read_version(item), read_aliases(store.client, name))


def resolve(
    reference: str,
    workspace: Path = Path("."),
    tracking: Tracking | None = None,
    places: Sequence[Store] = (),
) -> Path:
    """A folder with the model: a folder as it is, or a registered version's files linked together (or
    downloaded).

    places: stores beside those that the version was registered with. InputError where the version is unknown
    or none of its stores holds a file.
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
    manifest, recorded = version_manifest(workspace, tracking, reference)
    return materialise(manifest, [*recorded, cache_of(workspace), *places], model_cache(workspace))


@answered
def version_manifest(
    workspace: Path, tracking: Tracking, reference: str, store: Any = None
) -> tuple[Manifest, list[Store]]:
    """The files of a registered version, and the stores it was registered with.

    InputError where its file list is gone (its run's or model's artifacts were deleted) or is none of ours.
    """
    version = find_version(workspace, tracking, reference, store)
    config = _read_config(version)
    try:
        return Manifest.from_config(config), [Store.from_config(place) for place in config["stores"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise _unreadable(version, error) from error


@answered
def version_code(
    workspace: Path, tracking: Tracking, reference: str, store: Any = None
) -> tuple[str, list[str], Callable[[Path], Path]]:
    """The name of the wheel that a version's code is in ("" where it carries none: registered by an earlier
    release), the packages that it was made with (`name==version`), and what brings the wheel into a folder.
    """
    version = find_version(workspace, tracking, reference, store)
    config = _read_config(version)
    wheel = Path(str(config.get("code") or "")).name

    def bring(folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        try:
            return Path(download_artifacts(f"{version.reference}/artifacts/{wheel}", dst_path=str(folder)))
        except Exception as error:
            if not is_from_store(error):
                raise
            raise InputError(f"{version.reference}: its code cannot be had: {explain(error).text}") from error

    return wheel, [str(pin) for pin in config.get("requirements") or ()], bring


@answered
def version_artifact(
    workspace: Path, tracking: Tracking, reference: str, name: str, folder: Path
) -> Path | None:
    """A file that a version carries, brought into a folder; None where it carries none of that name."""
    version = find_version(workspace, tracking, reference)
    from mlflow.artifacts import download_artifacts, list_artifacts

    there = {item.path for item in list_artifacts(f"{version.reference}/artifacts") or ()}
    if not any(Path(path).name == name for path in there):
        return None
    return Path(download_artifacts(f"{version.reference}/artifacts/{name}", dst_path=str(folder)))


def _read_config(version: Version) -> Mapping[str, Any]:
    from mlflow.models import get_model_info

    try:
        return dict(get_model_info(version.reference).flavors["python_function"]["config"])
    except Exception as error:
        if not (
            is_from_store(error) or isinstance(error, KeyError | TypeError | AttributeError | ValueError)
        ):
            raise
        raise _unreadable(version, error) from error


def _unreadable(version: Version, error: BaseException) -> InputError:
    return InputError(
        f"{version.reference}: its list of files cannot be read ({explain(error).text}); it was not made by "
        "this software, or its logged model was deleted: name another version (`videollava models`)"
    )


def _parse(reference: str, model: str) -> tuple[str, str, str]:
    if match := REFERENCE.fullmatch(reference):
        return match["name"], match["alias"] or "", match["version"] or ""
    if reference.isascii() and reference.isdigit():
        return model, "", reference
    if re.fullmatch(r"[\w-]+", reference):
        return model, reference, ""
    raise InputError(
        f"{reference!r}: write models:/{model}@champion, models:/{model}/3, a version number or an alias"
    )


def read_version(item: Any) -> Version:
    """A version of MLflow's, by whomever it was made."""
    tags = item.tags or {}
    metrics = _metrics(tags.get("metrics"))
    lineage = Lineage.from_tags(tags)
    version = Version(
        name=item.name,
        number=int(item.version),
        run_id=item.run_id or "",
        created=int(item.creation_timestamp or 0),
        metrics=metrics or {},
        lineage=lineage,
        key=tags.get("key", ""),
        evaluation=tags.get("evaluation", ""),
        encoders=tags.get("encoders", ""),
        manifest=tags.get("manifest_sha256", ""),
        saved=tags.get("saved_commit", ""),
        saved_ref=tags.get("saved_ref", ""),
        tags=dict(tags),
        archived=item.current_stage == "Archived",
    )
    return replace(version, remarks=tuple(_remarks(version, metrics is None)))


def _metrics(text: str | None) -> dict[str, dict[str, Any]] | None:
    """What a version's tag says of its scores; None where somebody made it unreadable."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return None
    return found if isinstance(found, dict) and all(map(_are_scores, found.values())) else None


def _are_scores(told: Any) -> bool:
    """Whether one benchmark's figures are of the kinds that the gate and the card count with."""
    if not isinstance(told, dict) or not isinstance(told.get("headline", ""), str):
        return False
    leaks = told.get("contamination") or {}
    counts = [told.get(name) for name in COUNTS]
    return isinstance(leaks, dict) and all(
        count is None or isinstance(count, int) for count in (*counts, *(leaks.get(name) for name in LEAKS))
    )


def _decision(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _remarks(version: Version, broken: bool) -> list[str]:
    if not version.key:
        return ["not made by this software"]
    told = [] if version.lineage.commit else [f"commit {version.lineage.describe()}"]
    told += ["its scores (tag `metrics`) cannot be read"] if broken else []
    return told + (["archived"] if version.archived else [])


def _with_aliases(version: Version, aliases: Mapping[str, int]) -> Version:
    mine = tuple(sorted(alias for alias, number in aliases.items() if number == version.number))
    return replace(version, aliases=mine)
