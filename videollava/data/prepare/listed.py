"""The sources that dvc.yaml's stage `index` reads, one line each: DVC takes no list from params.yaml.

A dependency must be exactly one output of another stage. Of a folder above them DVC would not notice that a source
is gone, and in a fresh clone it would pull none of the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from videollava.errors import InputError
from videollava.params import read_mapping

__all__ = ["check_listed", "list_sources", "listed_sources"]

GRAPH = "dvc.yaml"
LINE = re.compile(r"^( *)- data/shards/([A-Za-z0-9][A-Za-z0-9_-]*) *\n", re.MULTILINE)


def listed_sources(workspace: Path) -> list[str]:
    """Names of the sources whose shards dvc.yaml lists as dependencies."""
    file = workspace / GRAPH
    return [found[2] for found in LINE.finditer(file.read_text())] if file.is_file() else []


def list_sources(workspace: Path, names: Iterable[str]) -> bool:
    """Make dvc.yaml list these sources, in their order; whether that changed it. InputError where it lists none."""
    names = list(names)
    file = workspace / GRAPH
    if not file.is_file() or listed_sources(workspace) == names:
        return False
    text = file.read_text()
    found = list(LINE.finditer(text))
    if not found:
        raise InputError(
            f"{file}: stage index lists no data/shards/NAME among its deps; write one line a source"
        )
    lines = "".join(f"{found[0][1]}- data/shards/{name}\n" for name in names)
    begin = found[0].start()
    rest = LINE.sub("", text[begin:])
    half = file.with_name(f"{GRAPH}.tmp")
    half.write_text(text[:begin] + lines + rest)
    half.replace(file)
    return True


def check_listed(workspace: Path, names: Iterable[str]) -> None:
    """InputError where dvc.yaml lists other sources than params.yaml has: DVC would not see that one changed."""
    names = list(names)
    file = workspace / "params.yaml"
    # What `--set` says is not what DVC reads.
    if (
        not (workspace / GRAPH).is_file()
        or not file.is_file()
        or list(read_mapping(file).get("sources") or ()) != names
    ):
        return
    if (listed := listed_sources(workspace)) != names:
        raise InputError(
            f"{workspace / GRAPH}: stage index lists the shards of {', '.join(listed) or 'no source'}, and params.yaml "
            f"has the sources {', '.join(names)}; `videollava data join` writes them there"
        )
