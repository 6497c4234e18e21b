"""What a version's code needs: every package that it computes with, pinned as it was installed.

Our own package is none of them: a name that nobody holds on the public index is anybody's to publish. It comes as
the wheel that lies beside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import metadata

from videollava.tracking.packages import COMPUTE

__all__ = ["LIKE_ENOUGH", "differing", "pin_requirements"]

OURS = "videollava"
FOR_TRAINING = ("deepspeed", "bitsandbytes", "gguf")  # nothing that answers needs them
# What serving and evaluating import; what they need in turn comes with them.
NEEDED = (*(name for name in COMPUTE if name not in FOR_TRAINING), "filelock", "pydantic", "pyyaml", "rich")
ALONE = ("torch",)  # pins its own CUDA libraries, exactly
LIKE_ENOUGH = 2  # leading numbers of two versions that have to be the same


def pin_requirements() -> list[str]:
    """`name==version` of what is installed here of NEEDED and all that it needs, sorted."""
    found: dict[str, str] = {}
    waiting = list(NEEDED)
    while waiting:
        name = _normal(waiting.pop())
        if name in found or name == OURS:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        # What comes after "+" says who built it; the public index has it without.
        found[name] = distribution.version.partition("+")[0]
        waiting += [] if name in ALONE else _needs(distribution.requires or ())
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _needs(requires: Iterable[str]) -> list[str]:
    from packaging.requirements import Requirement

    needs = [Requirement(text) for text in requires]
    return [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def differing(pinned: Sequence[str]) -> list[str]:
    """Which packages of a version's pins compute here in another release, or are not there, in words."""
    told = []
    for pin in pinned:
        name, _, wanted = pin.partition("==")
        if not wanted or name not in COMPUTE:
            continue
        try:
            here = metadata.version(name)
        except metadata.PackageNotFoundError:
            here = ""
        if _release(here) != _release(wanted):
            told.append(f"{name} {wanted} ({f'here {here}' if here else 'not installed here'})")
    return told


def _release(version: str) -> list[str]:
    return version.partition("+")[0].split(".")[:LIKE_ENOUGH]
