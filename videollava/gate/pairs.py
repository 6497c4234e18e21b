"""Champion and candidate on the same questions, answer by answer: what the gate's tests are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videollava.errors import InputError

if TYPE_CHECKING:
    from videollava.evaluate.results import Results
    from videollava.evaluate.statistics import Bound, Comparison

__all__ = ["Pair", "bound_all", "read_pairs"]


@dataclass(frozen=True)
class Pair:
    """One benchmark: the champion's `figures` on the candidate's questions, the paired test, and of each question the
    candidate's points of a hundred less the champion's, and its medium.
    """

    figures: Mapping[str, Any]
    comparison: Comparison
    differences: tuple[float, ...]
    media: tuple[str, ...]

    @property
    def gain(self) -> float:
        """The mean difference, in points of a hundred."""
        return sum(self.differences) / len(self.differences)

    def bound(self, level: float) -> Bound:
        """What the difference exceeds at a level."""
        from videollava.evaluate.statistics import bound_mean

        return bound_mean(self.differences, self.media, level=level)


def bound_all(pairs: Mapping[str, Pair], level: float) -> Bound:
    """The same of the mean over benchmarks; what shares a medium is not independent there either."""
    from videollava.evaluate.statistics import bound_mean

    rows = [
        (name, change, medium if not medium.startswith("question ") else f"{name} {medium}")
        for name, pair in pairs.items()
        for change, medium in zip(pair.differences, pair.media, strict=True)
    ]
    names, changes, media = zip(*rows, strict=True)
    return bound_mean(changes, media, names, level=level)


def read_pairs(candidate: Path, champion: Sequence[Path]) -> tuple[dict[str, Pair], dict[str, str]]:
    """Pairs by benchmark, and why others have none. champion: its evaluation folders; the first with the candidate's
    questions (by their hash where both have one, else by their texts and gold) and judge is taken.

    InputError where the candidate's answers cannot be read.
    """
    from videollava.evaluate.results import read_metrics, read_results

    asked, mine = read_metrics(candidate), read_results(candidate)
    pairs: dict[str, Pair] = {}
    unlike: dict[str, str] = {}
    for folder in champion:
        try:
            figures, theirs = read_metrics(folder), read_results(folder)
        except InputError as error:  # an old version that cannot be read must not bar every new one
            unlike |= {name: str(error) for name in mine if name not in unlike}
            continue
        for name in mine:
            if name in theirs and name not in pairs:
                found = _pair(mine[name], theirs[name], asked.get(name) or {}, figures.get(name) or {})
                if isinstance(found, Pair):
                    pairs[name] = found
                else:
                    unlike.setdefault(name, found)
    return pairs, {name: why for name, why in unlike.items() if name not in pairs}


def _pair(mine: Results, theirs: Results, asked: Mapping[str, Any], figures: Mapping[str, Any]) -> Pair | str:
    from videollava.evaluate.compare import compare_results, media_of
    from videollava.evaluate.results import full_marks

    here, there = asked.get("questions"), figures.get("questions")
    if here and there and here != there:
        return "other questions, media or gold than the champion's (their hashes differ)"
    try:
        contrast = compare_results(theirs, mine, ("the champion's", "this version's"))
    except InputError as error:
        return str(error).removeprefix(f"{mine.benchmark}: ")
    scale, media = 100.0 / full_marks(mine.benchmark), media_of(theirs, mine)
    changes = {key: scale * (one.value - theirs.answers[key].value) for key, one in mine.answers.items()}
    return Pair(figures, contrast.paired, tuple(changes.values()), tuple(media[key] for key in changes))
