"""The wheel of a version's code: the files that ran, built by hatchling, the same bytes from the same files."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import videollava
from videollava.errors import InputError
from videollava.registry.whole.apart import PACKAGE, code_files, digest_of, user_cache

__all__ = ["code_of", "pack_code"]

EPOCH = "315532800"  # 1980, the oldest a zip can say
LICENCE = "LICENSE"
# It depends on nothing by itself: the version's requirements.txt pins what it was made with.
PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = {version}
description = "The code that a version of Video-LLaVA was made with, and answers by."
requires-python = ">=3.11"
license = "Apache-2.0"
license-files = [{licence}]
scripts = {{ {name} = "{name}.cli:main" }}

[tool.hatch.build]
ignore-vcs = true

[tool.hatch.build.targets.wheel]
packages = ["{name}"]
"""


def code_of(workspace: Path) -> Path:
    """The package that the stages of this workspace run: its own, else the one that is running."""
    own = workspace / PACKAGE
    return own if (own / "__init__.py").is_file() else Path(videollava.__file__).parent


def pack_code(package: Path, workspace: Path | None = None) -> Path:
    """A wheel of the package as it is now, videollava-<version>+c<its hash>-py3-none-any.whl, made once a content.

    InputError where hatchling, which builds it, is not installed.
    """
    version = f"{videollava.__version__}+c{digest_of(package)}"
    target = user_cache("wheels", workspace) / f"{PACKAGE}-{version}-py3-none-any.whl"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="packing-", dir=target.parent) as folder:
        _lay_out(package, version, Path(folder))
        os.replace(_build(Path(folder)), target)
    return target


def _lay_out(package: Path, version: str, root: Path) -> None:
    for file in code_files(package):
        copy = root / PACKAGE / file.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    licence = _licence(package)
    (root / LICENCE).write_text(licence)
    named = json.dumps(LICENCE) if licence else ""
    project = PROJECT.format(name=PACKAGE, version=json.dumps(version), licence=named)
    (root / "pyproject.toml").write_text(project)


def _licence(package: Path) -> str:
    """The licence's text, from the checkout or from what is installed; "" where neither has it."""
    file = package.parent / LICENCE
    if file.is_file() and (package.parent / "pyproject.toml").is_file():
        return file.read_text()
    try:
        return metadata.distribution(PACKAGE).read_text(f"licenses/{LICENCE}") or ""
    except metadata.PackageNotFoundError:
        return ""


def _build(root: Path) -> Path:
    try:
        from hatchling.builders.wheel import WheelBuilder
    except ImportError as error:
        raise InputError(
            "hatchling is not installed, and a version carries the wheel of its code: `pip install hatchling`"
        ) from error
    with _dated():
        (built,) = WheelBuilder(str(root)).build(directory=str(root / "built"), versions=["standard"])
    return Path(built)


@contextmanager
def _dated() -> Iterator[None]:
    """The environment variable by which builders date what they write."""
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = EPOCH
    try:
        yield
    finally:
        os.environ.pop("SOURCE_DATE_EPOCH")
        if before is not None:
            os.environ["SOURCE_DATE_EPOCH"] = before
