"""Stages' entries of dvc.lock: out of one workspace and into another's, as DVC reads and writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Entry", "put_entries", "read_entries", "take_entries"]

Entry = dict[str, Any]
LOCK = "dvc.lock"


def read_entries(text: str) -> dict[str, Entry]:
    """The stages of a dvc.lock's text. InputError where it is none."""
    from dvc.utils.serialize import parse_yaml  # PyYAML takes 1e-05 for a word

    from flows.history.reasons import in_words

    with in_words(Path(LOCK)):
        return dict((parse_yaml(text, LOCK) or {}).get("stages") or {})


def take_entries(root: Path, stages: Iterable[str] = ()) -> dict[str, Entry]:
    """Those of a workspace: of `stages`, as far as they are there, or all."""
    file = root / LOCK
    found = read_entries(file.read_text()) if file.is_file() else {}
    wanted = set(stages)
    return {name: entry for name, entry in found.items() if not wanted or name in wanted}


def put_entries(root: Path, entries: Mapping[str, Entry]) -> None:
    """Have dvc.lock name these; the others' stay. Whoever reads it meanwhile finds one or the other."""
    from dvc.utils.serialize import dump_yaml

    merged = {**take_entries(root), **entries}
    aside = root / f"{LOCK}.tmp"
    dump_yaml(str(aside), {"schema": "2.0", "stages": merged})
    aside.replace(root / LOCK)
