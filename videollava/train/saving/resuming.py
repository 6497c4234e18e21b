"""Reading the newest whole checkpoint: found by rank 0, checked by all, then read by each.

Its files are checked before anything of the model is changed. A damaged one is reported, and the one before it is read.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from videollava.errors import InputError
from videollava.train.launch.meeting import Together
from videollava.train.saving.engines import Kept
from videollava.train.saving.parts import Index, Reading
from videollava.train.saving.places import Damaged, FolderPlace, Place, Whole, read_manifest
from videollava.train.saving.state import MODEL

__all__ = ["read_newest", "read_other", "read_weights", "read_whole"]


def read_newest(place: Place, kept: Kept, about: Mapping[str, Any], together: Together) -> Whole | None:
    """Put the newest whole checkpoint into model and optimiser; which it was, None without one.

    InputError where it was made with something else than `about` says.
    """
    found = together.hear(place.newest() if together.first else None)
    while found is not None:
        _check_same_run(found, about)
        damage = read_whole(place, found, kept, together)
        if not damage:
            return found
        if together.first:
            print(f"checkpoint {found.where} is damaged ({damage}); trying the one before it", flush=True)
        found = together.hear(place.newest(before=found.step) if together.first else None)
    return None


def read_other(folder: Path, kept: Kept, about: Mapping[str, Any], together: Together) -> Whole:
    """Put the checkpoint of another run, in `folder`, into model and optimiser; which it was.

    InputError where it isn't whole, or the steps and samples of that run aren't those that `about` says.
    """
    place = FolderPlace(folder.parent)
    found = together.hear(_whole_in(folder) if together.first else None)
    assert found is not None
    for name, value in about.items():
        if found.about.get(name) != value:
            raise InputError(
                f"{folder}: made with {name} = {found.about.get(name)!r}, this run has {value!r}: what it has learned "
                "is no part of this run's way; begin anew without it"
            )
    if damage := read_whole(place, found, kept, together):
        raise InputError(f"{folder}: not a whole checkpoint: {damage}")
    return found


def read_whole(place: Place, whole: Whole, kept: Kept, together: Together) -> str:
    """Put one checkpoint into model and optimiser; "", or what is damaged of it, and then nothing was changed."""
    hosts = together.gather(socket.gethostname())
    here = [rank for rank, host in enumerate(hosts) if host == hosts[together.rank]]
    folder, damage = _fetch(place, whole, kept.first_files(whole) if here[0] == together.rank else [])
    if damage := _first(together.gather(damage)):
        return damage
    needed = together.gather(kept.needs(whole, folder))
    # Ranks of a host check its files together, each file once.
    files = sorted({file for rank in here for file in needed[rank]})
    folder, damage = _fetch(place, whole, files[here.index(together.rank) :: len(here)])
    if damage := _first(together.gather(damage)):
        return damage
    kept.read(folder)
    return ""


def read_weights(place: Place, whole: Whole) -> dict[str, Tensor]:
    """The weights that learned, by name, of a checkpoint in a place; whole, on the host, in one process.

    InputError where it isn't a whole one, or is one of DeepSpeed's, which only training reads.
    """
    import torch

    if whole.about.get("engine") != "torch":
        raise InputError(
            f"{whole.where}: a checkpoint of DeepSpeed's {whole.about.get('engine')}, whose parts only training reads; "
            "strategy sharded writes such as can be looked into"
        )
    try:
        folder = place.fetch(whole, whole.files)
    except Damaged as reason:
        raise InputError(f"{whole.where}: not a whole checkpoint: {reason}") from reason
    index = Index.read(folder)
    state = {
        name: torch.empty(shape, dtype=dtype)
        for name, (dtype, shape) in index.kept().items()
        if name.startswith(MODEL)
    }
    Reading(index, state).read(folder)
    return {name.removeprefix(MODEL): tensor for name, tensor in state.items()}


def _fetch(place: Place, whole: Whole, files: list[str]) -> tuple[Path, str]:
    """The local folder, and what is damaged; a rank that fails tells the others, who would wait for it."""
    try:
        return place.fetch(whole, files), ""
    except (Damaged, OSError) as reason:
        return Path(), str(reason) or type(reason).__name__


def _whole_in(folder: Path) -> Whole:
    try:
        return read_manifest(folder)
    except Damaged as reason:
        raise InputError(f"{folder}: not a whole checkpoint: {reason}") from reason


def _first(told: list[str]) -> str:
    return next((one for one in told if one), "")


def _check_same_run(found: Whole, about: Mapping[str, Any]) -> None:
    for name, value in about.items():
        if found.about.get(name) != value:
            raise InputError(
                f"{found.where}: made with {name} = {found.about.get(name)!r}, this run has {value!r}; go on with the "
                f"same {name}, or remove {Path(found.where).parent} to start this stage anew"
            )
