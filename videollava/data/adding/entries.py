"""Entries of `sources` in params.yaml, put in and taken out as text: comments and what else stands there stay."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from videollava.errors import InputError
from videollava.params import Params, load_params

__all__ = ["put_entry", "take_entry", "take_portion"]

WIDTH = 110
_SOURCES = re.compile(r"^sources:[ \t]*(?P<inline>\{\s*\})?[ \t]*(?P<comment>#.*)?$", re.MULTILINE)


def put_entry(file: Path, name: str, entry: Mapping[str, Any]) -> Params:
    """Write a source's entry behind the others; the parameters as they are then.

    Raises InputError, with the file as it was, where the name is taken or an entry is not valid.
    """
    text = file.read_text() if file.is_file() else ""
    lines = yaml.safe_dump(
        dict(entry), default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    )
    line = f"  {name}: {lines.strip()}\n"
    if len(line) > WIDTH:
        block = yaml.safe_dump(dict(entry), sort_keys=False, width=10**6, allow_unicode=True)
        line = f"  {name}:\n" + "".join(f"    {part}\n" for part in block.splitlines())
    found = _find_sources(file, text)
    if found is None:
        joined = f"{text.rstrip()}\n\nsources:\n{line}" if text.strip() else f"sources:\n{line}"
        return _written(file, text, joined)
    head = f"sources:{'  ' + found['comment'] if found['comment'] else ''}"
    end = _end_of_block(text, found.end())
    joined = text[: found.start()] + head + text[found.end() : end] + line + text[end:]
    return _written(file, text, joined)


def take_entry(file: Path, name: str) -> Params:
    """Take a source's entry out; the parameters as they are then.

    Raises InputError, with the file as it was, where there is none, or another parameter needs it.
    """
    text = file.read_text() if file.is_file() else ""
    found = _find_sources(file, text)
    start = found.end() if found else len(text)
    block = text[start : _end_of_block(text, start)]
    entry = re.search(rf"^(?P<indent>[ \t]+)(['\"]?){re.escape(name)}\2[ \t]*:.*\n?", block, re.MULTILINE)
    if entry is None:
        raise InputError(f"{file}: sources has no entry {name!r}")
    rest = block[entry.end() :]
    deeper = re.match(rf"(?:{entry['indent']}[ \t]+.*\n?|[ \t]*\n(?={entry['indent']}[ \t]))*", rest)
    left = block[: entry.start()] + rest[deeper.end() if deeper else 0 :]
    head = text[:start]
    if not re.search(r"^[ \t]+[^#\s]", left, re.MULTILINE):
        head = re.sub(r"sources:(?=[^\n]*\Z)", "sources: {}", head)
    return _written(file, text, head + left + text[start + len(block) :])


def take_portion(file: Path, name: str) -> bool:
    """Take index.sources.NAME out, and what is empty then; whether there was one."""
    text = file.read_text()
    path: list[tuple[yaml.MappingNode, int]] = []
    node = yaml.compose(text, yaml.SafeLoader)
    for key in ("index", "sources", name):
        if not isinstance(node, yaml.MappingNode):
            return False
        keys = [pair[0].value for pair in node.value]
        if key not in keys:
            return False
        path.append((node, keys.index(key)))
        node = node.value[keys.index(key)][1]
    while len(path) > 1 and len(path[-1][0].value) == 1:
        path.pop()
    start, end = _span(text, *path[-1])
    _written(file, text, text[:start] + text[end:])
    return True


def _span(text: str, mapping: yaml.MappingNode, place: int) -> tuple[int, int]:
    """Where a key and its value stand: whole lines, or within braces with a comma."""
    pairs = mapping.value
    key, value = pairs[place]
    if not mapping.flow_style:
        end = text.find("\n", _last(value).end_mark.index)
        return text.rfind("\n", 0, key.start_mark.index) + 1, end + 1 if end >= 0 else len(text)
    if place + 1 < len(pairs):
        return key.start_mark.index, pairs[place + 1][0].start_mark.index
    start = pairs[place - 1][1].end_mark.index if place else key.start_mark.index
    return start, value.end_mark.index


def _last(node: yaml.Node) -> yaml.Node:
    """The last of what a node is made of: a block ends, for YAML, where the next one begins, comments between."""
    while isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    return node


def _find_sources(file: Path, text: str) -> re.Match[str] | None:
    found = _SOURCES.search(text)
    if found is None and re.search(r"^sources:", text, re.MULTILINE):
        raise InputError(f"{file}: sources is written in one line; give each source a line of its own")
    return found


def _end_of_block(text: str, start: int) -> int:
    """Where the lines that belong to a key end, but for empty lines and comments of what follows."""
    end = start
    for line in re.finditer(r"\n([^\n]*)", text[start:]):
        if line[1].strip() and not line[1].startswith((" ", "\t")):
            break
        if line[1].strip():
            end = start + line.end()
    return min(end + 1, len(text))


def _written(file: Path, before: str, after: str) -> Params:
    """The parameters of the new text, once it is written; the old one stays where it is not valid."""
    _replace(file, after)
    return _or_else(lambda: load_params(file), lambda: _replace(file, before))


def _or_else(call: Callable[[], Params], undo: Callable[[], None]) -> Params:
    try:
        return call()
    except BaseException:
        undo()
        raise


def _replace(file: Path, text: str) -> None:
    half = file.with_name(f".{file.name}.half")
    half.write_text(text)
    half.replace(file)
