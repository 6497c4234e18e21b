"""Turns whose content is a list of parts, as chat interfaces write them, made plain: text with marks, and media."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from videollava.data.records.marks import KINDS, MediumKind, escape_marks, mark

__all__ = ["PartError", "join_parts", "media_of_parts"]

_TEXTS = ("text", "input_text", "output_text")
_PATHS = ("path", "url", "file")


class PartError(ValueError):
    """A part that is neither text nor a medium."""


def media_of_parts(contents: Iterable[Any]) -> dict[MediumKind, list[str | None]]:
    """Paths of the media among the parts of all turns, in order; None where a part only says that one is here.

    Raises PartError.
    """
    found: dict[MediumKind, list[str | None]] = {}
    for content in contents:
        for part in _parts(content):
            kind = _kind_of(part)
            if kind is not None:
                found.setdefault(kind, []).append(_path_of(part, kind))
    return found


def join_parts(content: Any, *, with_media: bool) -> Any:
    """A list of parts as one text, each medium as its mark; whatever is no list comes back as it is.

    Pieces that no white space keeps apart come on lines of their own. with_media: media stand among the parts of this
    conversation, so `<image>` in its texts is a word.
    """
    if not isinstance(content, list):
        return content
    text = ""
    for part in _parts(content):
        kind = _kind_of(part)
        said = part if isinstance(part, str) else next((part[name] for name in _TEXTS if part.get(name)), "")
        piece = mark(kind) if kind else escape_marks(said) if with_media else said
        apart = not text or not piece or text[-1].isspace() or piece[0].isspace()
        text += piece if apart else f"\n{piece}"
    return text


def _parts(content: Any) -> Sequence[Any]:
    return content if isinstance(content, list) else ()


def _kind_of(part: Any) -> MediumKind | None:
    """The kind of a part that is a medium, None of a text."""
    if isinstance(part, str):
        return None
    said = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(said, str):
        if said in _TEXTS and isinstance(part.get("text", ""), str | None):
            return None
        for kind in KINDS:
            if said in (kind, f"{kind}_url", f"input_{kind}"):
                return kind
    raise PartError(
        f"a part must be a text or one of {', '.join(KINDS)}, such as "
        f'{{"type": "text", "text": ...}} or {{"type": "image", "image": path}}, not {str(part)[:80]}'
    )


def _path_of(part: Mapping[str, Any], kind: MediumKind) -> str | None:
    """Where the part says that its medium lies."""
    for name in (kind, f"{kind}_url", *_PATHS):
        value = part.get(name)
        if isinstance(value, Mapping):
            value = next((value[key] for key in _PATHS if value.get(key)), None)
        if value:
            if isinstance(value, str) and not value.startswith("data:"):
                return value
            raise PartError(f"a part of type {part['type']} must name a file; put its bytes into an archive")
    return None
