"""A model by reference: which files it is made of, by hash, and the stores that hold them.

The files lie in DVC's cache (and on its remote) under the md5 that dvc.lock names, so a version stays
loadable when later trainings overwrite the folder, and its weights are kept once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from videollava.errors import InputError
from videollava.registry.store import OBJECTS, Store, download, size_of
from videollava.registry.whole.apart import user_cache
from videollava.tracking.lineage import digest, lock_entry

__all__ = [
    "File",
    "Manifest",
    "bring_object",
    "cache_of",
    "folder_key",
    "have_object",
    "inside",
    "lacks_object",
    "make_once",
    "materialise",
    "missing_files",
    "model_cache",
    "read_manifest",
    "read_object",
]

MODEL = "models/videollava"
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
DAMAGED = "damaged (its content does not fit its hash)"


@dataclass(frozen=True)
class File:
    """One file of a model: its path in the folder, size in bytes, md5 (its name in a store) and sha256."""

    path: str
    size: int
    md5: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files of one model folder. key: DVC's md5 of the folder."""

    key: str
    files: tuple[File, ...]

    @property
    def sha256(self) -> str:
        """Hash over all paths and contents."""
        return digest([[file.path, file.size, file.sha256] for file in self.files])

    def config(self, places: Sequence[Store]) -> dict[str, Any]:
        """As the model_config of a registered pyfunc."""
        files = [asdict(file) for file in self.files]
        return {
            "key": self.key,
            "manifest_sha256": self.sha256,
            "files": files,
            "stores": [asdict(place) for place in places],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Manifest:
        """Read `config` back; InputError where its hash does not fit or a path leaves the folder."""
        try:
            manifest = cls(config["key"], tuple(File(**file) for file in config["files"]))
            stated = config["manifest_sha256"]
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"the version's model_config is not one of ours: {error}; register it again"
            ) from error
        if manifest.sha256 != stated:
            raise InputError(
                f"the version's file list has hash {manifest.sha256}, its model_config says {stated}"
            )
        return _checked(manifest)


def folder_key(workspace: Path, stage: str = "finetune", out: str = MODEL) -> str:
    """DVC's hash of the trained model's folder, from dvc.lock; InputError where it was never made."""
    for entry in lock_entry(workspace, stage).get("outs") or ():
        if entry["path"] == out and entry.get("md5"):
            return str(entry["md5"])
    raise InputError(f"{workspace / 'dvc.lock'}: no output {out} of stage {stage}; run `dvc repro` first")


def cache_of(workspace: Path) -> Store:
    """Where DVC keeps its cache unless it is told otherwise (what it was told, flows/storage.py reads)."""
    return Store(str((workspace / ".dvc" / "cache").resolve()))


def read_manifest(cache: Path, key: str) -> Manifest:
    """The files behind a folder's key in a DVC cache, with their sha256 computed."""
    listing = _object(cache, key)
    if not listing.is_file():
        raise InputError(f"{cache}: {key} is not in this DVC cache; run `dvc fetch` or `dvc commit` first")
    files = []
    for row in json.loads(listing.read_text()):
        source = _object(cache, row["md5"])
        if not source.is_file():
            raise InputError(
                f"{cache}: {row['relpath']} ({row['md5']}) is not in this DVC cache; run `dvc fetch` first"
            )
        files.append(File(row["relpath"], source.stat().st_size, row["md5"], _sha256(source)))
    return _checked(Manifest(key, tuple(sorted(files, key=lambda file: file.path))))


def read_object(cache: Path, manifest: Manifest, path: str) -> bytes | None:
    """The content of one of a model's files out of a DVC cache; None where the model has no such file."""
    found = next((file for file in manifest.files if file.path == path), None)
    return None if found is None else _object(cache, found.md5).read_bytes()


def _checked(manifest: Manifest) -> Manifest:
    for file in manifest.files:
        inside(file.path)
    return manifest


def inside(path: str) -> str:
    """A path of a version's file list; InputError where it leads out of its folder."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise InputError(f"the version's file list names {path!r}, which lies outside its folder")
    return path


def have_object(objects: Path, md5: str, places: Sequence[Store]) -> Path:
    """The object of this name in the folder `objects`, linked or brought there from a store if need be.

    InputError where no store holds it whole.
    """
    target = _object(objects, _hash(md5))
    if not target.is_file():
        bring_object(md5, places, target)
    return target


def _hash(md5: str) -> str:
    if not MD5.fullmatch(md5):  # a tag that somebody edited
        raise InputError(f"{md5!r} is no hash of DVC's")
    return md5


def bring_object(md5: str, places: Sequence[Store], target: Path) -> None:
    """Link or download an object to `target`, its content checked by its name. InputError where no store holds it
    whole.
    """
    _hash(md5)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    for place in places:
        try:
            trouble = _copy(md5, place, aside)
            if not trouble and _md5(aside) == md5.removesuffix(".dir"):
                aside.replace(target)
                return
        finally:
            aside.unlink(missing_ok=True)
    raise InputError(f"{md5} is in none of {', '.join(place.url for place in dict.fromkeys(places))}")


def lacks_object(md5: str, places: Sequence[Store]) -> bool:
    """Whether none of the stores has an object of this name, found out without a download."""
    return not any(
        _object(Path(place.url), _hash(md5)).is_file() if place.is_folder else not size_of(md5, place)[1]
        for place in dict.fromkeys(places)
    )


def _copy(md5: str, place: Store, target: Path) -> str:
    if not place.is_folder:
        return download(md5, place, target)
    source = _object(Path(place.url), md5)
    if not source.is_file():
        return "not there"
    _link(source, target)
    return ""


def model_cache(workspace: Path | None = None) -> Path:
    """Where versions are unfolded: $VIDEOLLAVA_CACHE, the workspace's .mlflow, else the user's cache."""
    return user_cache("models", workspace)


def materialise(manifest: Manifest, places: Sequence[Store], cache: Path) -> Path:
    """A folder with the manifest's files: links into a local store, or checked downloads. Made once, then
    reused.

    Hard links where the file system allows (they outlive `dvc gc`), else symbolic links. InputError names a
    file that no store holds, or whose content is not what the version was registered with.
    """
    target = _unfolded(manifest, cache)
    if _is_whole(target, manifest):
        return target

    def fill(aside: Path) -> None:
        for file in manifest.files:
            _place(file, places, aside / file.path)

    return make_once(target, fill)


def make_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """The folder `target` as `fill` makes it: aside and renamed, so that it is there whole or not at all."""
    cache = target.parent
    shutil.rmtree(target, ignore_errors=True)  # symbolic links whose store was cleared since
    cache.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="unfolding-", dir=cache))
    try:
        fill(aside)
        aside.chmod(0o755)  # mkdtemp's are for the owner alone
        try:
            aside.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first: the same files
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def missing_files(manifest: Manifest, places: Sequence[Store], cache: Path) -> str:
    """What `materialise` would end with, found out without a download; "" where it has all it needs."""
    if _is_whole(_unfolded(manifest, cache), manifest):
        return ""
    for file in manifest.files:
        tried = []
        for place in dict.fromkeys(places):
            trouble = _look(file, place)
            if not trouble:
                break
            tried.append(f"{place.url}: {trouble}")
        else:
            return _lacking(file, tried)
    return ""


def _unfolded(manifest: Manifest, cache: Path) -> Path:
    return cache / manifest.sha256[:32]


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    places = [(folder / file.path, file.size) for file in manifest.files]
    return folder.is_dir() and all(path.is_file() and path.stat().st_size == size for path, size in places)


def _place(file: File, places: Sequence[Store], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    tried = []
    for place in dict.fromkeys(places):
        trouble = _take(file, place, target)
        if not trouble:
            return
        tried.append(f"{place.url}: {trouble}")
    raise InputError(_lacking(file, tried))


def _lacking(file: File, tried: Sequence[str]) -> str:
    return (
        f"{file.path} (md5 {file.md5}) of this version cannot be had; tried "
        + "; ".join(tried or ["no store"])
        + "; `dvc push` it from where it was trained, or let DVC bring it here: `python -m flows.storage VERSION`"
    )


def _look(file: File, place: Store) -> str:
    """Whether a store has the file: "" or why it cannot be taken from there."""
    if not place.is_folder:
        size, trouble = size_of(file.md5, place)
        return trouble or ("" if size == file.size else DAMAGED)
    source = _object(Path(place.url), file.md5)
    if not source.is_file():
        return "not there"
    return DAMAGED if _differs(source, file) else ""


def _take(file: File, place: Store, target: Path) -> str:
    """Put the file at `target` from one store; "" or why not."""
    if place.is_folder:
        trouble = _look(file, place)
        if not trouble:
            _link(_object(Path(place.url), file.md5), target)
        return trouble
    trouble = download(file.md5, place, target)
    if not trouble and _differs(target, file):
        target.unlink()
        return DAMAGED
    return trouble


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source.resolve())


def _differs(path: Path, file: File) -> bool:
    return path.stat().st_size != file.size or _sha256(path) != file.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def _object(store: Path, md5: str) -> Path:
    return store / OBJECTS / md5[:2] / md5[2:]
