"""A model by reference: which files it is made of, by hash, and the stores that hold them.

The files lie in DVC's cache (and on its remote) under the md5 that dvc.lock names, so a version stays
loadable when later trainings overwrite the folder, and its weights are kept once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from configparser import ConfigParser
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from videollava.errors import InputError
from videollava.tracking.lineage import digest, lock_entry, scrub

__all__ = [
    "File",
    "Manifest",
    "Store",
    "folder_key",
    "have_object",
    "materialise",
    "model_cache",
    "read_manifest",
    "stores",
]

MODEL = "models/videollava"
OBJECTS = "files/md5"
CHUNK = 1 << 22


@dataclass(frozen=True)
class File:
    """One file of a model: its path in the folder, size in bytes, md5 (its name in a store) and sha256."""

    path: str
    size: int
    md5: str
    sha256: str


@dataclass(frozen=True)
class Store:
    """Where objects lie: a folder or an s3:// address (`endpoint` for servers other than AWS)."""

    url: str
    endpoint: str = ""


@dataclass(frozen=True)
class Manifest:
    """The files of one model folder. key: DVC's md5 of the folder."""

    key: str
    files: tuple[File, ...]

    @property
    def sha256(self) -> str:
        """Hash over all paths and contents."""
        return digest([[file.path, file.size, file.sha256] for file in self.files])

    def config(self, stores: Sequence[Store]) -> dict[str, Any]:
        """As the model_config of a registered pyfunc."""
        files = [asdict(file) for file in self.files]
        return {
            "key": self.key,
            "manifest_sha256": self.sha256,
            "files": files,
            "stores": [asdict(store) for store in stores],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Manifest:
        """Read `config` back; InputError where its hash does not fit or a path leaves the folder."""
        try:
            manifest = cls(config["key"], tuple(File(**file) for file in config["files"]))
            stated = config["manifest_sha256"]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"the version's model_config is not one of ours: {error}; register it again"
            ) from error
        if manifest.sha256 != stated:
            raise InputError(
                f"the version's file list has hash {manifest.sha256}, its model_config says {stated}"
            )
        for file in manifest.files:
            parts = PurePosixPath(file.path)
            if parts.is_absolute() or ".." in parts.parts or not parts.parts:
                raise InputError(
                    f"the version's file list names {file.path!r}, which lies outside its folder"
                )
        return manifest


def folder_key(workspace: Path, stage: str = "finetune", out: str = MODEL) -> str:
    """DVC's hash of the trained model's folder, from dvc.lock; InputError where it was never made."""
    for entry in lock_entry(workspace, stage).get("outs") or ():
        if entry["path"] == out and entry.get("md5"):
            return str(entry["md5"])
    raise InputError(f"{workspace / 'dvc.lock'}: no output {out} of stage {stage}; run `dvc repro` first")


def read_manifest(workspace: Path, key: str) -> Manifest:
    """The files behind a folder's key in the workspace's DVC cache, with their sha256 computed."""
    listing = _object(_cache(workspace), key)
    if not listing.is_file():
        raise InputError(
            f"{MODEL} ({key}) is not in the DVC cache; run `dvc fetch {MODEL}` or `dvc commit finetune`"
        )
    files = []
    for row in json.loads(listing.read_text()):
        source = _object(_cache(workspace), row["md5"])
        if not source.is_file():
            raise InputError(
                f"{MODEL}/{row['relpath']} ({row['md5']}) is not in the DVC cache; run `dvc fetch {MODEL}`"
            )
        files.append(File(row["relpath"], source.stat().st_size, row["md5"], _sha256(source)))
    return Manifest(key, tuple(sorted(files, key=lambda file: file.path)))


def stores(workspace: Path) -> list[Store]:
    """The workspace's DVC cache, then its default remote if it has one: no credentials, only addresses."""
    found = [Store(str(_cache(workspace)))]
    config = _config(workspace)
    remote = config.get("core", "remote", fallback="")
    for section in (f"'remote \"{remote}\"'", f'remote "{remote}"'):
        if remote and config.has_section(section):
            url = config.get(section, "url", fallback="")
            found.append(_remote(workspace, url, config.get(section, "endpointurl", fallback="")))
    return found


def have_object(workspace: Path, md5: str) -> Path:
    """The object of this name in the workspace's DVC cache, brought there from the remote if need be.

    InputError where no store holds it whole.
    """
    cache, *others = stores(workspace)
    target = _object(Path(cache.url), md5)
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    for place in others:
        try:
            if place.url.startswith("s3://"):
                trouble = _download(md5, place, aside)
            else:
                source = _object(Path(place.url), md5)
                trouble = "" if source.is_file() else "not there"
                if not trouble:
                    shutil.copyfile(source, aside)
            if not trouble and _md5(aside) == md5.removesuffix(".dir"):
                aside.replace(target)
                return target
        finally:
            aside.unlink(missing_ok=True)
    raise InputError(f"{md5} is in none of {', '.join(scrub(place.url) for place in (cache, *others))}")


def model_cache(workspace: Path | None = None) -> Path:
    """Where versions are unfolded: $VIDEOLLAVA_CACHE, the workspace's .mlflow, else the user's cache."""
    if named := os.environ.get("VIDEOLLAVA_CACHE"):
        return Path(named) / "models"
    if workspace is not None and (workspace / "dvc.yaml").is_file():
        return workspace.resolve() / ".mlflow" / "models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "videollava" / "models"


def materialise(manifest: Manifest, places: Sequence[Store], cache: Path) -> Path:
    """A folder with the manifest's files: links into a local store, or checked downloads. Made once, then
    reused.

    Hard links where the file system allows (they outlive `dvc gc`), else symbolic links. InputError names a
    file that no store holds, or whose content is not what the version was registered with.
    """
    target = cache / manifest.sha256[:32]
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="unfolding-", dir=cache))
    try:
        for file in manifest.files:
            _place(file, places, aside / file.path)
        aside.chmod(0o755)  # mkdtemp's are for the owner alone
        try:
            aside.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first: the same files
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _place(file: File, places: Iterable[Store], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    tried = []
    for place in places:
        trouble = _take(file, place, target)
        if not trouble:
            return
        tried.append(f"{scrub(place.url)}: {trouble}")
    raise InputError(
        f"{file.path} (md5 {file.md5}) of this version cannot be had; tried "
        + "; ".join(tried or ["no store"])
        + "; `dvc push` it from where it was trained, or set a remote that has it (`dvc remote add -d`)"
    )


def _take(file: File, place: Store, target: Path) -> str:
    """Put the file at `target` from one store; "" or why not."""
    if "://" not in place.url:
        source = _object(Path(place.url), file.md5)
        if not source.is_file():
            return "not there"
        if _differs(source, file):
            return "damaged (its content does not fit its hash)"
        _link(source, target)
        return ""
    if not place.url.startswith("s3://"):
        return "kind of remote not supported here; `dvc fetch` it first"
    trouble = _download(file.md5, place, target)
    if not trouble and _differs(target, file):
        target.unlink()
        return "damaged (its content does not fit its hash)"
    return trouble


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source.resolve())


def _download(md5: str, place: Store, target: Path) -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    address = urlsplit(place.url)
    key = "/".join(part for part in (address.path.strip("/"), OBJECTS, md5[:2], md5[2:]) if part)
    try:
        boto3.Session().client("s3", endpoint_url=place.endpoint or None).download_file(
            address.netloc, key, str(target)
        )
    except (BotoCoreError, ClientError) as error:
        return str(error)
    return ""


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


def _remote(workspace: Path, url: str, endpoint: str) -> Store:
    if url.startswith("file://"):
        url = urlsplit(url).path
    if "://" not in url:
        url = str((workspace / ".dvc" / url).resolve())
    return Store(scrub(url), scrub(endpoint))


def _cache(workspace: Path) -> Path:
    return (workspace / ".dvc" / _config(workspace).get("cache", "dir", fallback="cache")).resolve()


def _config(workspace: Path) -> ConfigParser:
    config = ConfigParser(interpolation=None)
    config.read([workspace / ".dvc" / "config", workspace / ".dvc" / "config.local"])
    return config
