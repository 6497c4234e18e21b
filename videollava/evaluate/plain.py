"""A model's text as a person reads it: without reasoning, Markdown and typographic variants of plain characters."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["plain", "without_reasoning"]

MARKS = r"(?:think(?:ing)?|reason(?:ing)?|thought)"
REASONING = re.compile(rf"<({MARKS})>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
LEFT_CLOSED = re.compile(rf".*</{MARKS}\s*>", re.DOTALL | re.IGNORECASE)
LEFT_OPEN = re.compile(rf"<{MARKS}>.*", re.DOTALL | re.IGNORECASE)
EMPHASIS = re.compile(r"[*`]+|(?<!\w)_+|_+(?!\w)")
QUOTES = str.maketrans("\u2018\u2019\u201a\u201c\u201d\u201e\u2212", "'''\"\"\"-")


def without_reasoning(text: str) -> str:
    """A text without what stands in `<think>` marks, also where their first or last half is missing."""
    if "<" not in text:
        return text
    if "</" in text:
        text = LEFT_CLOSED.sub("", REASONING.sub(" ", text))
    return LEFT_OPEN.sub("", text).strip()


def plain(text: str) -> str:
    """A text without Markdown's emphasis and code marks; full-width letters and curly quotes as plain ones."""
    return EMPHASIS.sub("", unicodedata.normalize("NFKC", text).translate(QUOTES)).strip()
