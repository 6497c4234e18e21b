"""Artifacts as they were when a run named them: a later run writes params.yaml, dvc.lock, a report again."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from pathlib import Path

from videollava.scrub import scrub

__all__ = ["ARTIFACT_LIMIT", "keep"]

ARTIFACT_LIMIT = 64 << 20  # bytes: what is larger belongs into DVC's stores
TEXTS = {".csv", ".ini", ".json", ".jsonl", ".lock", ".log", ".md", ".toml", ".txt", ".yaml", ".yml"}
ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)


def keep(path: Path, store: Path) -> Path:
    """A copy of a file or folder in `store`, named by its content, without the credentials that texts hold.

    What is not there, too large for an artifact or cannot be copied is named as it is: whoever sends it says so.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    try:
        if not files or sum(file.stat().st_size for file in files) > ARTIFACT_LIMIT:
            return path
        return _copy(path, files, store)
    except OSError:  # a full disk, say: no reason to lose a training
        return path


def _copy(path: Path, files: list[Path], store: Path) -> Path:
    contents = [(file.relative_to(path.parent), _content(file)) for file in files]
    state = hashlib.sha256()
    for name, content in contents:
        state.update(f"{name}\0{len(content)}\0".encode() + content)
    folder = store / state.hexdigest()[:16]
    if not folder.is_dir():
        aside = store / f"copying-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        for name, content in contents:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_bytes(content)
        try:
            aside.rename(folder)
        except OSError:  # another process was first: the same content
            shutil.rmtree(aside)
    return folder / path.name


def _content(file: Path) -> bytes:
    content = file.read_bytes()
    page = file.suffix.lower() == ".html"
    if not page and file.suffix.lower() not in TEXTS:
        return content
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content
    # A page is markup and megabytes of pictures: what stands between its tags is not taken for `name: value`.
    hidden = ADDRESS.sub(lambda found: scrub(found.group()), text) if page else scrub(text)
    return content if hidden == text else hidden.encode()
