"""The packages that can change a result: their pins, and how what is installed differs from them.

compute.lock is the part of requirements.lock that stages of dvc.yaml depend on, each on the lines it uses: another
torch trains again, another ruff doesn't. `make lock` writes both (`python -m videollava.tracking.packages torch==X`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from videollava.errors import InputError
from videollava.params import read_mapping

__all__ = [
    "COMPUTE",
    "LOCK",
    "compute_lock",
    "differing_packages",
    "differing_tag",
    "in_words",
    "library_versions",
    "locked_packages",
    "package_tags",
]

LOCK = "compute.lock"
PINS = "requirements.lock"
COMPUTE = (
    "accelerate",
    "av",
    "bitsandbytes",
    "decord",
    "deepspeed",
    "gguf",
    "kaldi-native-fbank",
    "numpy",
    "peft",
    "pillow",
    "pyarrow",
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "torch",
    "transformers",
)
OPTIONAL = ("bitsandbytes", "deepspeed", "gguf")  # what asks for one that isn't there is refused
HEAD = """\
# The part of requirements.lock that can change a result. Written by `make lock`; a stage of dvc.yaml depends on the
# lines that it uses.
"""
PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)")


def compute_lock(pins: str) -> str:
    """The text of compute.lock for the pins (lines of NAME==VERSION) of all packages.

    InputError where one of `COMPUTE` is not pinned.
    """
    found = [PIN.match(line.strip()) for line in pins.splitlines()]
    versions = {one[1]: one[2] for one in found if one}
    if lacking := [name for name in COMPUTE if name not in versions]:
        raise InputError(f"{PINS}: does not pin {', '.join(lacking)}; `make lock` writes it again")
    # Quoted: 2.10 would be read as the number 2.1.
    return HEAD + "".join(f'{name}: "{versions[name]}"\n' for name in COMPUTE)


def locked_packages(root: Path) -> dict[str, str]:
    """The packages of compute.lock with their versions; empty where there is none. InputError where it is broken."""
    file = root / LOCK
    held = read_mapping(file) if file.is_file() else {}
    return {str(name): str(version) for name, version in held.items()}


def differing_packages(root: Path) -> dict[str, tuple[str, str]]:
    """Packages of compute.lock that are installed otherwise, as (locked, installed); "" where one is not there.

    What follows a plus (2.13.0+cpu) says how a version was built: no difference. Nothing is imported.
    """
    found = {}
    for name, locked in locked_packages(root).items():
        installed = _installed(name)
        if installed.partition("+")[0] != locked.partition("+")[0] and (installed or name not in OPTIONAL):
            found[name] = (locked, installed)
    return found


def library_versions() -> dict[str, str]:
    """Versions of this package and of those that can change a result, as tags, without importing them."""
    installed = {name: _installed(name) for name in ("videollava", *COMPUTE)}
    return {f"version.{name}": version for name, version in installed.items() if version}


def package_tags(root: Path) -> dict[str, str]:
    """`library_versions`, and how they differ from compute.lock where they do."""
    return library_versions() | differing_tag(root)


def differing_tag(root: Path) -> dict[str, str]:
    """How packages differ from compute.lock, as the tag `packages_differ`; empty where none does."""
    told = in_words(differing_packages(root))
    return {"packages_differ": told} if told else {}


def in_words(differing: Mapping[str, tuple[str, str]]) -> str:
    """ "torch 2.11.0 (compute.lock: 2.13.0), av not installed (compute.lock: 18.1.0)"; "" where nothing differs."""
    return ", ".join(
        f"{name} {installed or 'not installed'} ({LOCK}: {locked})"
        for name, (locked, installed) in differing.items()
    )


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def main(more: Sequence[str]) -> int:
    """Write compute.lock of the pins in requirements.lock and `more`, in this folder."""
    text = compute_lock("\n".join([Path(PINS).read_text(), *more]))
    aside = Path(f"{LOCK}.tmp")
    aside.write_text(text)
    aside.replace(LOCK)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
