"""Pieces of text to token ids, each as it would stand within the whole conversation.

Text never turns into control tokens here, whatever it says: the templates put those in themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from videollava.errors import InputError

__all__ = ["Segments", "segments_of"]

_SHORT = 256  # characters: longer texts hardly ever come twice, so they are not remembered


class Segments:
    """Encodes pieces of text of one tokenizer as they would stand within the whole.

    A SentencePiece tokenizer puts a space before whatever it is given; so does the original, which
    encodes the text between media piece by piece. A byte-level one does not.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.bos: int | None = tokenizer.bos_token_id
        if tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no end-of-text token; set its eos_token")
        self.eos: int = tokenizer.eos_token_id
        self._plain = _plain_encoder(tokenizer)
        self._colon = self._plain(":")
        if any(self._plain(f": {text}")[: len(self._colon)] != self._colon for text in ("a", "1", "\n", "?")):
            raise InputError(
                "the tokenizer joins a colon to the space after it: take one that splits at spaces"
            )
        # Only a tokenizer that adds a space of its own reads these two alike.
        self._adds_space = self._plain("\n") == self._strip_colon(" \n")
        self._remember = lru_cache(maxsize=16384)(self._read)

    def alone(self, text: str) -> list[int]:
        """Ids of text at the start, after a control token or after a medium."""
        return self._cached(text, follows=self._adds_space)

    def after_colon(self, text: str) -> list[int]:
        """Ids of " " + text where a colon comes before."""
        return self._cached(text if self._adds_space else " " + text, follows=True)

    def _cached(self, text: str, *, follows: bool) -> list[int]:
        return self._remember(text, follows) if len(text) <= _SHORT else self._read(text, follows)

    def _read(self, text: str, follows: bool) -> list[int]:
        if not follows:
            return self._plain(text)
        return self._strip_colon(" " + text if self._adds_space else text)

    def _strip_colon(self, text: str) -> list[int]:
        return self._plain(":" + text)[len(self._colon) :]


def _plain_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """A function text -> ids that adds nothing and reads control tokens in the text as plain text."""
    if not getattr(tokenizer, "is_fast", False):

        def encode_slow(text: str) -> list[int]:
            ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
            return ids

        return encode_slow
    from tokenizers import Tokenizer

    # A copy: the switches below would change what other users of this tokenizer get.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True

    def encode_fast(text: str) -> list[int]:
        # One by one: batches start threads, and a process that forks afterwards is warned about them.
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return encode_fast


_KNOWN: WeakKeyDictionary[Any, tuple[int, Segments]] = WeakKeyDictionary()


def segments_of(tokenizer: Any) -> Segments:
    """The segment encoder of a tokenizer, made once; InputError where it has no end-of-text token."""
    size = len(tokenizer)
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != size:
        known = (size, Segments(tokenizer))
        _KNOWN[tokenizer] = known
    return known[1]
