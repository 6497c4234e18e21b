"""The question and gold files of a benchmark's folder, told from its media by how they begin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["gold_entries", "looks_like_data"]

SNIFFED = 4096


def gold_entries(folder: Path) -> Iterator[Path]:
    """Files with data, and folders that hold some: what the benchmark reads, media folders left out."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        inside = [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file())
        if any(looks_like_data(file) for file in inside):
            yield path


def looks_like_data(path: Path) -> bool:
    """Whether a file is JSON or a table, by how it begins."""
    with path.open("rb") as file:
        head = file.read(SNIFFED)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return start in (b"{", b"[") or (b"\t" in head.partition(b"\n")[0] and b"\0" not in head)
