"""Artifacts as they were when a run named them: a later run writes params.yaml, dvc.lock, a report again."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from videollava.scrub import scrub, scrub_all

__all__ = ["ARTIFACT_LIMIT", "keep"]

ARTIFACT_LIMIT = 64 << 20  # bytes: what is larger belongs into DVC's stores
TEXTS = {".csv", ".ini", ".json", ".jsonl", ".lock", ".log", ".md", ".toml", ".txt", ".yaml", ".yml"}
LINE = re.compile(r"(?<=\n)")  # str.splitlines ends lines within JSON, too
YAML = {".lock", ".yaml", ".yml"}
MARKUP = re.compile(r"(<(?:script|style)\b[\s\S]*?</(?:script|style)>|<[^<>]*>)", re.IGNORECASE)
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
    if folder.is_dir():
        os.utime(folder)  # named again: tidy.py leaves it be
    else:
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
    content, kind = file.read_bytes(), file.suffix.lower()
    if kind != ".html" and kind not in TEXTS:
        return content
    text, code = _text(content)
    hidden = _hidden(text, kind)
    return content if hidden == text else hidden.encode(code, "surrogateescape")


def _text(content: bytes) -> tuple[str, str]:
    """A text and what it is written in. One odd byte, in a log say, must not keep the rest from being read."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16"), "utf-16"
        except UnicodeDecodeError:
            pass
    return content.decode("utf-8", "surrogateescape"), "utf-8"


def _hidden(text: str, kind: str) -> str:
    if kind == ".html":
        return _hide_in_page(text)
    if kind == ".jsonl":
        return "".join(_hide_in_values(line, json.loads, _write_line) for line in LINE.split(text))
    if kind == ".json":
        return _hide_in_values(text, json.loads, lambda value: json.dumps(value, indent=2) + "\n")
    if kind in YAML:
        return _hide_in_values(
            text, _read_yaml, lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        )
    return scrub(text)


def _hide_in_values(text: str, read: Callable[[str], Any], write: Callable[[Any], str]) -> str:
    """Hide in what a program reads, so that it can read it afterwards too. Layout and comments stay where hiding in
    the text gives the very same values.
    """
    hidden = scrub(text)
    try:
        value = read(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        return hidden
    clean = scrub_all(value)
    if hidden == text and clean == value:
        return text
    try:
        same = read(hidden) == clean
    except (ValueError, yaml.YAMLError):
        same = False
    return hidden if same else write(clean)


def _write_line(value: Any) -> str:
    return json.dumps(value) + "\n"


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _hide_in_page(text: str) -> str:
    """In a page's words; in its tags and scripts, which are markup and megabytes of pictures, addresses alone."""
    parts = MARKUP.split(text)
    return "".join(
        ADDRESS.sub(lambda found: scrub(found.group()), part) if at % 2 else scrub(part)
        for at, part in enumerate(parts)
    )
