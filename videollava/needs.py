"""What a recipe needs and this machine lacks, told before anything starts: packages, data, access, a GPU, disk."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from videollava.machine import Machine
from videollava.machine.devices import count_gpus
from videollava.origin import PACKAGE, REGISTERED, is_on_hub
from videollava.params import Model, Params

__all__ = ["find_lacks"]

VARIABLE = re.compile(r"\$\{(\w+)\}")
LARGE = 1e9  # weights of a language model, from which on a CPU takes weeks
COPIES = 4  # of its weights on disk: the hub's cache, models/bases, models/videollava, DVC's cache
HALF = 2  # bytes of a weight


def find_lacks(params: Params, machine: Machine, workspace: Path) -> list[str]:
    """One sentence for each thing that is missing here, with what to do; none where all is there.

    What stages made already may make up for it: who starts them says it, and goes on.
    """
    return [
        *_packages(params),
        *_data(params, workspace),
        *_models(params, workspace),
        *_gpu(params, machine),
        *_disk(params, workspace),
    ]


def _packages(params: Params) -> Iterator[str]:
    shipped = {name for name in _named(params) if name.startswith(PACKAGE)}
    wanted = {name.removeprefix(PACKAGE) for name in shipped}
    if shipped:
        wanted.add("gguf")
    wanted |= {source.package for source in params.sources.values() if source.kind == "package"}
    if params.finetune.adapter == "qlora":
        wanted.add("bitsandbytes")
    missing = sorted(name for name in wanted if name and not _is_installed(name))
    if missing:
        yield f"packages {', '.join(missing)} are not installed: `pip install {' '.join(missing)}`"


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return importlib.util.find_spec(package.replace("-", "_")) is not None
    return True


def _data(params: Params, workspace: Path) -> Iterator[str]:
    for name, source in params.sources.items():
        written = " ".join([*source.urls, source.annotations])
        unset = sorted({variable for variable in VARIABLE.findall(written) if not os.environ.get(variable)})
        if unset:
            yield f"source {name}: {', '.join(unset)} is not set in the environment; its addresses begin with it"
        if source.kind == "folder" and not (workspace / Path(source.path).expanduser()).is_dir():
            yield (
                f"source {name}: no folder {source.path}: put the data there, or "
                f"`videollava data add {name} FOLDER|URL`"
            )
    absent = [
        f"{name} ({params.evaluate.folders[name]})"
        for name in params.evaluate.benchmarks
        if name in params.evaluate.folders and not (workspace / params.evaluate.folders[name]).is_dir()
    ]
    if absent:
        yield f"no files of the benchmarks {', '.join(absent)}: docs/evaluation.md says what goes there"


def _named(params: Params) -> list[str]:
    """Models by every name that the recipe gives."""
    bases = params.bases
    names = [params.index.tokenizer, bases.model, bases.language, bases.image_encoder, bases.video_encoder]
    return [name for name in dict.fromkeys(names) if name not in ("", "train")]


def _models(params: Params, workspace: Path) -> Iterator[str]:
    for name in _named(params):
        if name.startswith(REGISTERED) or not is_on_hub(name, workspace):
            continue
        trouble = _hub_trouble(name)
        if trouble:
            yield f"{name}: {trouble}"


def _hub_trouble(name: str) -> str:
    """Why a model of the hub cannot be had, "" where it can or is here already."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    repository, _, revision = name.partition("@")
    try:
        snapshot_download(repository, revision=revision or None, local_files_only=True)
        return ""
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        pass
    try:
        HfApi().auth_check(repository)
    except GatedRepoError:
        return "accept its terms on its page on the hub, and set HF_TOKEN (or `hf auth login`)"
    except RepositoryNotFoundError:
        return "the hub has no such model that you may read; for a private one set HF_TOKEN"
    except Exception as error:
        # The library lets its HTTP client's errors through, and that client changes with its releases.
        if not isinstance(error, HfHubHTTPError | OSError) and "httpx" not in type(error).__module__:
            raise
        return "not in the hub's cache here, and the hub cannot be asked: `hf download` it where there is a network"
    return ""


def _language_weights(model: Model) -> int:
    """Weights of the language model's layers, about."""
    shape = model.language
    return shape.layers * (4 * shape.width**2 + 3 * shape.width * shape.mlp)


def _gpu(params: Params, machine: Machine) -> Iterator[str]:
    weights, work = _language_weights(params.model), machine.work("finetune")
    if weights > LARGE and work.launcher == "local" and not count_gpus():
        yield (
            f"no GPU is here, and a language model of {weights / 1e9:.0f} billion weights takes one: "
            "`videollava plan --gpu H100 --gpus 1` says which, machine.yaml where (docs/machines.md)"
        )


def _disk(params: Params, workspace: Path) -> Iterator[str]:
    weights = _language_weights(params.model)
    free, needed = shutil.disk_usage(workspace).free, COPIES * HALF * weights
    if weights > LARGE and free < needed:
        yield (
            f"{free / 1e9:.0f} GB of disk are free here, and the models alone take about {needed / 1e9:.0f} "
            "(the hub's cache, models/ and DVC's cache; HF_HOME and `dvc cache dir` move two of them)"
        )
