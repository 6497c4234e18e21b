"""Whether training has seen what a benchmark asks: its media by their bytes, its questions by their words.

Reported and not judged: questions such as "what is this?" are in every training set, and only a benchmark's own
medium together with its question gives an answer away.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from videollava.data.load.shards import Shards
from videollava.data.prepare.tables import is_trained_on, load_split, split_names
from videollava.evaluate.benchmarks.interface import LETTER, SHORT
from videollava.evaluate.benchmarks.vizwiz import UNANSWERABLE
from videollava.evaluate.questions import Medium, QuestionSet

__all__ = ["Near", "find_contamination", "normalised", "shingles"]

ALIKE = 0.8  # of the shingles of two texts, the share that both have, from which they are near-duplicates
LISTED = 5
WORD = re.compile(r"\w+")
TAGS = re.compile("<(?:image|video)>")


@dataclass
class Training:
    """What the training splits hold of the benchmarks': hashes of media, and texts that are the same or alike."""

    media: frozenset[str] = frozenset()
    same: set[str] = field(default_factory=set)
    alike: dict[str, str] = field(default_factory=dict)  # a benchmark's text -> one of training's
    together: set[tuple[str, str]] = field(default_factory=set)  # sha256 of a medium, text asked about it


def find_contamination(
    sets: Sequence[QuestionSet], sums: Mapping[Medium, str], workspace: Path
) -> dict[str, dict[str, Any]]:
    """By benchmark: how many of its distinct `media` are in a training split byte for byte (`of_media` there are),
    how many questions' texts are there (`questions`) or nearly so (`near`), how many ask it of the same medium
    (`both`); with `examples`. Nothing where there are no prepared data to look into. sums: SHA-256 of media.
    """
    prepared = workspace / "data/index"
    if not (prepared / "media.arrow").is_file():
        return {}
    shards = Shards(prepared)
    hashes = {one.name: {m: sums[m] for m in _media(one) if m in sums} for one in sets}
    texts = {normalised(item.question) for one in sets for item in one.items}
    training = _read_training(prepared, shards, texts, {h for own in hashes.values() for h in own.values()})
    return {one.name: _report(one, hashes[one.name], training) for one in sets}


def normalised(question: str) -> str:
    """A question's words in lower case, without marks of media and without what a benchmark asks of the form."""
    text = TAGS.sub(" ", question)
    for suffix in (SHORT, LETTER, UNANSWERABLE):
        text = text.replace(suffix, " ")
    return " ".join(WORD.findall(text.lower()))


def shingles(text: str) -> frozenset[str]:
    """Pairs of neighbouring words, the text's ends counting as one."""
    return frozenset(f"{a} {b}" for a, b in pairwise(["", *text.split(), ""]))


class Near:
    """Texts that can be asked for near-duplicates: those that share 0.8 of all shingles (Jaccard).

    Exact, by prefix filtering: of two such texts, each must have one of the other's rarest shingles.
    """

    def __init__(self, texts: Collection[str]) -> None:
        self.shingles = {text: shingles(text) for text in texts if text}
        self.counts = Counter(part for parts in self.shingles.values() for part in parts)
        self.index: dict[str, list[str]] = defaultdict(list)
        for text, parts in self.shingles.items():
            for part in self._rarest(parts):
                self.index[part].append(text)

    def of(self, text: str) -> set[str]:
        """The texts that `text` nearly is."""
        parts = shingles(text)
        candidates = {other for part in self._rarest(parts) for other in self.index.get(part, ())}
        return {other for other in candidates if _jaccard(parts, self.shingles[other]) >= ALIKE}

    def _rarest(self, parts: Collection[str]) -> list[str]:
        kept = len(parts) - math.ceil(ALIKE * len(parts)) + 1
        return sorted(parts, key=lambda part: (self.counts[part], part))[:kept]


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def _media(one: QuestionSet) -> set[Medium]:
    return {medium for item in one.items for medium in item.seen}


def _read_training(prepared: Path, shards: Shards, texts: set[str], media: set[str]) -> Training:
    """One pass over the training splits; each distinct question is looked up once."""
    near, training = Near(texts), Training()
    used, looked_up = set(), set()
    hashes = shards.media["sha256"].to_pylist()
    for questions, numbers in _records(prepared):
        used.update(numbers)
        shared = [hashes[number] for number in numbers if hashes[number] in media]
        for question in questions:
            training.together.update((medium, question) for medium in shared)
            key = hash(question)
            if key in looked_up:
                continue
            looked_up.add(key)
            if question in texts:
                training.same.add(question)
            training.alike.update((text, question) for text in near.of(question) if text != question)
    training.media = frozenset(hashes[number] for number in used)
    return training


def _records(prepared: Path) -> Iterator[tuple[list[str], list[int]]]:
    """Of each training record the normalised questions and its media's numbers."""
    for split in split_names(prepared):
        if not is_trained_on(split):
            continue
        for batch in load_split(prepared, split).select(["conversations", "media"]).to_batches():
            for turns, numbers in zip(
                batch["conversations"].to_pylist(), batch["media"].to_pylist(), strict=True
            ):
                yield [normalised(text) for role, text in json.loads(turns) if role == "human"], numbers


def _report(one: QuestionSet, hashes: Mapping[Medium, str], training: Training) -> dict[str, Any]:
    media = _media(one)
    leaked = sorted(medium[1] for medium in media if hashes.get(medium) in training.media)
    texts = {item.id: normalised(item.question) for item in one.items}
    both = [
        item.id
        for item in one.items
        if any((hashes.get(medium, ""), texts[item.id]) in training.together for medium in item.seen)
    ]
    near = [key for key, text in texts.items() if text in training.alike and text not in training.same]
    examples: dict[str, Any] = {"media": leaked[:LISTED], "both": both[:LISTED]}
    examples["near"] = [[texts[key], training.alike[texts[key]]] for key in near[:LISTED]]
    return {
        "media": len(leaked),
        "of_media": len(media),
        "questions": sum(text in training.same for text in texts.values()),
        "near": len(near),
        "both": len(both),
        "of_questions": len(one.items),
        "examples": {name: found for name, found in examples.items() if found},
    }
