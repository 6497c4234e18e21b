r"""Where media stand in a conversation: `<image>`, `<video>` and their like, and the same letters as mere words.

Marks count where media are given. A conversation without media has none: `<video>` is text there, in a question
about HTML as in an answer. In one with media, a backslash makes a word of a mark: `\<video>` is read as the text
`<video>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import cast

from videollava.data.modalities import KINDS, MediumKind

__all__ = [
    "KINDS",
    "MediumKind",
    "escape_marks",
    "find_marks",
    "likenesses",
    "mark",
    "replace_marks",
    "replace_words",
    "split_at_marks",
    "word",
]

_NAMES = "|".join(KINDS)
_MARK = re.compile(rf"(\\?)<({_NAMES})>")
_LIKE = re.compile(rf"<\s*(?:{_NAMES})s?[\s_\d]*/?>|\[(?:{_NAMES})\]", re.IGNORECASE)


def mark(kind: MediumKind) -> str:
    """The mark of a medium in a human turn: `<image>`."""
    return f"<{kind}>"


def word(kind: MediumKind) -> str:
    r"""The same letters where they are no mark, in a conversation with media: `\<image>`."""
    return rf"\<{kind}>"


def escape_marks(text: str) -> str:
    r"""The text with its marks as words: `<image>` becomes `\<image>`."""
    return _MARK.sub(lambda found: rf"\<{found[2]}>", text) if "<" in text else text


def find_marks(text: str) -> list[MediumKind]:
    """Kinds of the marks in a text, in order; words are none."""
    return [kind for escape, kind in _MARK.findall(text) if not escape] if "<" in text else []


def split_at_marks(text: str) -> tuple[list[str], list[MediumKind]]:
    """The text between marks, with words as they are read, and the marks' kinds: one fewer than texts."""
    if "<" not in text:
        return [text], []
    texts: list[str] = [""]
    kinds: list[MediumKind] = []
    end = 0
    for found in _MARK.finditer(text):
        texts[-1] += text[end : found.start()]
        if found[1]:
            texts[-1] += found[0][1:]
        else:
            kinds.append(cast(MediumKind, found[2]))
            texts.append("")
        end = found.end()
    texts[-1] += text[end:]
    return texts, kinds


def replace_marks(text: str, others: Iterable[str] = ()) -> str:
    """The text with `others` in the place of its marks, as far as they go, then nothing; words as they are read."""
    texts, kinds = split_at_marks(text)
    rest = iter(others)
    return texts[0] + "".join(next(rest, "") + after for _, after in zip(kinds, texts[1:], strict=True))


def replace_words(text: str) -> str:
    """The text with words as they are read; marks, which mean nothing in an answer, stay as they are."""
    return _MARK.sub(lambda found: found[0].removeprefix("\\"), text) if "<" in text else text


def likenesses(text: str) -> list[str]:
    """What a person may have meant for a mark, and is none: `<Image>`, `<image >`, `<image_1>`, `[video]`."""
    return [found for found in _LIKE.findall(text) if not _MARK.fullmatch(found)]
