"""Where DVC keeps and shares this workspace's files, as DVC itself reads its settings (system, global, repo, local).

As a program: `python -m flows.storage [VERSION [--encoders]]` lists the places, and brings a registered version's
files here through DVC, from whatever kind of remote it speaks to.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from videollava.errors import InputError
from videollava.registry.store import Store
from videollava.scrub import scrub

__all__ = ["borrowers", "bring", "bring_encoders", "has_remote", "read_config", "share", "stores"]

BORROWERS = "borrowers"  # in the cache: a line for each checkout that was given it

VERSIONED = "a cloud-versioned remote keeps files by name; `dvc remote modify NAME version_aware false`"


def stores(workspace: Path) -> list[Store]:
    """The cache, then the default remote where there is one: addresses, no credentials.

    InputError where DVC's settings cannot be read, or name a remote that nobody defined.
    """
    config = read_config(workspace)
    found = [Store(str(_cache(workspace, config)))]
    if name := config["core"].get("remote"):
        found.append(_remote(workspace, config, str(name)))
    return found


def has_remote(workspace: Path) -> bool:
    """Whether the workspace has a default DVC remote, set at whatever level."""
    return len(stores(workspace)) > 1


def share(home: Path, root: Path) -> None:
    """Give a clone `home`'s cache and remotes: all that home's own settings say, local places by absolute path,
    in the clone's config.local (as secret as home's).
    """
    from configobj import ConfigObj
    from dvc.config import Config, merge

    config = read_config(home)
    there = Config(dvc_dir=str(_folder(home)), validate=False)
    own: dict[str, Any] = {}
    for level in Config.REPO_LEVELS:
        merge(own, there.read(level))  # paths are absolute in here
    own["cache"]["dir"] = str(_cache(home, config))
    remotes = {f'remote "{name}"': settings for name, settings in own.pop("remote").items()}
    # Not Config.edit: it writes ASCII alone, and homes have other names.
    packed = ConfigObj({name: part for name, part in {**own, **remotes}.items() if part}, encoding="utf-8")
    file = root / ".dvc" / "config.local"
    file.unlink(missing_ok=True)
    _note_borrower(_cache(home, config), root.resolve())  # first: what is lent is known to be needed
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        packed.write(stream)


def borrowers(workspace: Path) -> list[Path]:
    """Checkouts that were given this one's cache and are still there."""
    cache = _cache(workspace, read_config(workspace))
    there = [Path(line) for line in _noted(cache) if (Path(line) / ".dvc").is_dir()]
    return [
        path for path in there if path != workspace.resolve() and _cache(path, read_config(path)) == cache
    ]


def _note_borrower(cache: Path, root: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    if str(root) not in _noted(cache):
        with (cache / BORROWERS).open("a", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(f"{root}\n")


def _noted(cache: Path) -> list[str]:
    file = cache / BORROWERS
    text = file.read_text(encoding="utf-8", errors="surrogateescape") if file.is_file() else ""
    return list(dict.fromkeys(text.splitlines()))


def bring(workspace: Path, reference: str) -> Path:
    """Have DVC fetch a registered version's files from the default remote, and unfold them; the folder.

    InputError where the version or a file of it is not to be had.
    """
    from videollava import registry
    from videollava.params import load_params
    from videollava.registry.manifest import missing_files, model_cache

    tracking = load_params(workspace / "params.yaml").tracking
    reference = registry.find_version(workspace, tracking, reference).reference
    manifest, recorded = registry.version_manifest(workspace, tracking, reference)
    places = [*recorded, *stores(workspace)]
    if missing_files(manifest, places, model_cache(workspace)) and has_remote(workspace):
        _pull(workspace, reference, [file.md5 for file in manifest.files])
    return registry.resolve(reference, workspace, tracking, places)


def bring_encoders(workspace: Path, reference: str) -> Path:
    """The same of the encoders that a version keeps."""
    from videollava import registry
    from videollava.params import load_params
    from videollava.registry.encoders import list_objects

    tracking = load_params(workspace / "params.yaml").tracking
    version, places = registry.find_version(workspace, tracking, reference), stores(workspace)
    try:
        return registry.resolve_encoders(version.reference, workspace, tracking, places)
    except InputError:
        if not (version.encoders and has_remote(workspace)):
            raise
    _pull(workspace, version.reference, [version.encoders])
    _pull(workspace, version.reference, list_objects(workspace, version, places))
    return registry.resolve_encoders(version.reference, workspace, tracking, places)


def _pull(workspace: Path, reference: str, hashes: Sequence[str]) -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    try:
        with Repo(str(workspace)) as repo:
            repo.cloud.pull([HashInfo("md5", md5) for md5 in hashes])
    except (DvcException, OSError) as error:
        raise InputError(f"DVC cannot bring {reference}: {error}") from error


def read_config(workspace: Path) -> Mapping[str, Any]:
    """DVC's settings for this workspace, merged as DVC merges them."""
    from configobj import ConfigObjError
    from dvc.config import Config
    from dvc.exceptions import DvcException

    folder = _folder(workspace)
    try:
        return Config(dvc_dir=str(folder))
    except (DvcException, ConfigObjError, OSError) as error:
        raise InputError(
            f"{workspace}: DVC's settings cannot be read (`dvc config --list --show-origin`): {error}"
        ) from error


def _folder(workspace: Path) -> Path:
    """The .dvc folder, here or further up (a project in a folder of a larger repository)."""
    root = workspace.resolve()
    for folder in (root, *root.parents):
        if (folder / ".dvc").is_dir():
            return folder / ".dvc"
    raise InputError(f"{workspace}: no .dvc folder in there; run from the repository root, or `dvc init`")


def _cache(workspace: Path, config: Mapping[str, Any]) -> Path:
    named = config["cache"].get("dir") or _folder(workspace) / "cache"
    if legacy := config["cache"].get("local"):
        named = config["remote"].get(legacy, {}).get("url") or named
    return Path(str(named)).resolve()


def _remote(workspace: Path, config: Mapping[str, Any], name: str) -> Store:
    from dvc.exceptions import DvcException
    from dvc.fs import get_cloud_fs, get_fs_config
    from dvc_objects.fs.errors import AuthError, ConfigError, RemoteMissingDepsError

    try:
        url = str(get_fs_config(config, name=name).get("url", ""))
        system, settings, path = get_cloud_fs(config, name=name)
    except KeyError as error:
        raise InputError(
            f"{workspace}: DVC's remote {name!r} has no {error}; `dvc remote modify` sets it"
        ) from error
    except (DvcException, AuthError, ConfigError, RemoteMissingDepsError, ImportError, ValueError) as error:
        known = ", ".join(config["remote"]) or "none"
        raise InputError(
            f"{workspace}: DVC's default remote (core.remote) is {name!r}, but {error}; defined: {known}; "
            "`dvc config --list --show-origin` shows where it is set"
        ) from error
    versioned = settings.get("version_aware") or settings.get("worktree")
    note = VERSIONED if versioned else ""
    if url.startswith("file:"):  # seen: it pushes to ./file:/..., and says nothing
        raise InputError(
            f"{workspace}: DVC takes its remote {name!r}, {url}, for a folder of that name in here; write the plain "
            f"path: `dvc remote modify {name} url {urlsplit(url).path}`"
        )
    if system.protocol == "local":
        return Store(str(Path(path).resolve()), note=note)
    if system.protocol == "s3":
        place = f"s3://{path.rpartition('@')[2] if '@' in path.partition('/')[0] else path}"
        return Store(place, _address(settings.get("endpointurl")), *_names(settings), note)
    return Store(_address(url), note=note or f"{system.protocol} remotes are read by DVC alone")


def _names(settings: Mapping[str, Any]) -> tuple[str, str]:
    return str(settings.get("region") or ""), str(settings.get("profile") or "")


def _address(url: object) -> str:
    """An address without user, password and signature."""
    parts = urlsplit(str(url or ""))
    return scrub(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")))


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.storage", description=__doc__)
    parser.add_argument("version", nargs="?", default="", help="bring this version's files here through DVC")
    parser.add_argument("--encoders", action="store_true", help="its encoders, instead of its model")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    try:
        for place in stores(root):
            details = (place.endpoint, place.region, place.profile, place.trouble)
            print("  ".join(word for word in (place.url, *details) if word))
        if options.version:
            print((bring_encoders if options.encoders else bring)(root, options.version))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
