"""Counts the tokens of records, as training will write them; runs in worker processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videollava.data.modalities import MODALITIES
from videollava.data.prepare.outlines import Lists, media_of
from videollava.data.prepare.remembered import digest_of_code
from videollava.data.prepare.tables import read_batch
from videollava.data.records.marks import KINDS, find_marks, replace_marks
from videollava.data.records.record import Turn
from videollava.data.text.bounds import Bound, TooLongError
from videollava.data.text.vocabulary import PlainTokenizer, TrainedTokenizer, load_tokenizer, write_plain
from videollava.errors import InputError

__all__ = [
    "ASKED",
    "COLUMNS",
    "COUNT",
    "LEARNED",
    "Encoding",
    "Refusals",
    "Task",
    "count_rows",
    "kinds_of",
    "read_turns",
]

CODE = ("text", "records/marks.py", "prepare/rows.py")
LIBRARIES = ("tokenizers", "transformers", "sentencepiece")
COLUMNS = ("id", "split", "conversations", "media")  # of records.arrow, that counts follow from
LEARNED, ASKED = 1, 2  # how a record was counted; 0: it was not

# Of a record: tokens of text, of them those that are learned, those that were cut off; words that look like marks; and
# the first 64 bits of a hash of what is said.
COUNT = np.dtype(
    [("how", "i1"), ("text", "<i4"), ("targets", "<i4"), ("lost", "<i4"), ("words", "<i4"), ("said", "<u8")]
)
Refusals = dict[int, tuple[str, str]]  # by row: the reason and its detail


@dataclass(frozen=True)
class Encoding:
    """What counts follow from beside the records. `tokenizer` is its folder; `trained` whether train_tokenizer made
    it. `bounds`: how long samples of a split may be in training. `plain`: where `write_plain` wrote it again.
    """

    tokenizer: Path
    trained: bool
    bounds: Mapping[str, Bound]
    plain: Path | None = None

    def write_plain(self, folder: Path) -> Encoding:
        """Have workers read the tokenizer from this folder, where they can."""
        if self.trained or not write_plain(load_tokenizer(self.tokenizer), folder):
            return self
        return replace(self, plain=folder)

    def digest(self) -> str:
        """Of all that, the code and the libraries."""
        bounds = {split: asdict(bound) for split, bound in self.bounds.items()}
        tokenizer = hashlib.sha256()
        for file in sorted(self.tokenizer.rglob("*")):
            if file.is_file():
                tokenizer.update(file.name.encode() + file.read_bytes())
        parts = [digest_of_code(CODE, LIBRARIES), tokenizer.hexdigest(), self.trained, bounds]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def load(self) -> Any:
        """The tokenizer. Its time of writing tells it from one that lay in the same place before."""
        folder = self.plain or self.tokenizer
        return _load(folder, self.trained, self.plain is not None, folder.stat().st_mtime_ns)


@dataclass(frozen=True)
class Task:
    """Records to count: batch `number` of a table, and of each of its rows how (0: not at all).

    kinds: of the batch's media, one after the other, the numbers in KINDS.
    """

    encoding: Encoding
    records: Path
    number: int
    how: NDArray[np.int8]
    kinds: NDArray[np.uint8]


def count_rows(task: Task) -> tuple[NDArray[Any], Refusals]:
    """A COUNT of each row of the batch, and which of them can't be used, with why."""
    batch = read_batch(task.records, task.number, COLUMNS)
    counts = np.zeros(batch.num_rows, COUNT)
    refused: Refusals = {}
    kinds = kinds_of(media_of(batch), task.kinds)
    columns = [batch.column(name) for name in ("id", "split", "conversations")]
    for row in np.flatnonzero(task.how).tolist():
        name, split, said = (column[row].as_py() for column in columns)
        asked = task.how[row] == ASKED
        found = _count(split, name, read_turns(said), kinds[row], asked, task.encoding)
        if isinstance(found[0], str):
            refused[row] = found
            found = (0, 0, 0, 0)
        digest = hashlib.blake2b(said.encode(), digest_size=8).digest()
        counts[row] = (task.how[row], *found, int.from_bytes(digest, "little"))
    return counts, refused


def read_turns(text: str) -> tuple[Turn, ...]:
    """The turns of a record, from the column conversations."""
    return tuple(Turn(role, said) for role, said in json.loads(text))


def kinds_of(media: Lists, kinds: NDArray[np.uint8]) -> list[list[str]]:
    """Of each record, the kinds of its media."""
    names = [KINDS[kind] for kind in kinds.tolist()]
    offsets = media.offsets.tolist()
    return [names[begin:end] for begin, end in pairwise(offsets)]


def _count(
    split: str, name: str, turns: Sequence[Turn], kinds: Sequence[str], asked: bool, encoding: Encoding
) -> tuple[Any, ...]:
    """Text, target and lost tokens, words that look like marks; or a reason and its detail."""
    from videollava.data.text.prompts import cut, encode

    template = "plain" if split == "pretrain" and not asked else "v1"
    where = f"record {name!r}"
    shown = bool(kinds)
    # Of a test, questions are never cut.
    bound = None if asked else encoding.bounds.get(split)
    if any(not MODALITIES[kind].spoken for kind in kinds):  # type: ignore[index]
        # Aligned alone: the language model reads neither the medium nor its mark.
        turns, kinds = [Turn(turn.role, replace_marks(turn.text)) for turn in turns], ()
    try:
        whole = encode(turns, kinds, encoding.load(), template, where=where)
        encoded = whole
        if bound is not None:
            limit, by = bound.text_limit(kinds, where)
            encoded = cut(whole, limit, bounded_by=by, where=where)
    except TooLongError as error:
        return "too long", str(error)
    except InputError as error:
        return "cannot be encoded", str(error)
    words = 0 if shown else sum(len(find_marks(turn.text)) for turn in turns)
    return encoded.text_tokens, encoded.target_tokens, whole.text_tokens - encoded.text_tokens, words


@lru_cache(maxsize=1)
def _load(folder: Path, trained: bool, plain: bool, written: int) -> Any:
    if plain:
        return PlainTokenizer(folder)
    return TrainedTokenizer(folder) if trained else load_tokenizer(folder)
