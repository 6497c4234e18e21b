"""What every benchmark offers: its questions, its score, and where it has them a submission and a judge's
asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from videollava.evaluate.judge_prompts import Ask

__all__ = ["LETTER", "SHORT", "Benchmark", "Question", "Questions", "Score", "Submission"]

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Question:
    """One thing to ask the model.

    `id` is unique in its benchmark. `prompt` is the human turn, with one `<image>` or `<video>` mark for
    each of `media` (paths, below the media folder where none was given), in order. `kind` is the question's
    type, "" where the benchmark has none. `fields` go into the answer's line beside "question_id" and
    "text": what the official format has there (the prompt, options) and what the score joins on.
    """

    id: str
    prompt: str
    media: tuple[str, ...]
    kind: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


class Questions(Protocol):
    """The questions of a benchmark's files; `media` is the folder with the images or videos."""

    def __call__(self, files: Sequence[Path], media: Path | None = None) -> Iterator[Question]: ...


class Score(Protocol):
    """Scores of an answers file, percentages 0-100 (a judge's 0-5), at full precision.

    `gold` are files or folders in any order, `replies` a judge's. Always there: `n` (what the score is an
    average over), the benchmark's `headline` key, `invalid`, `missing`, `extra`, `duplicates`, `malformed`;
    with `per_question` a mapping from id to score as well, and `marks`: of each answer, by its line's own id,
    the score and the gold's text. InputError names file, record and remedy; its subclass Absent says that
    there is no gold.
    """

    def __call__(
        self,
        gold: Sequence[Path],
        answers: Path | None,
        replies: Path | None = None,
        per_question: bool = False,
    ) -> dict[str, Any]: ...


class Submission(Protocol):
    """Writes what the official server takes to `out`; gives counts: written, missing, broken."""

    def __call__(self, questions: Sequence[Path], answers: Path, out: Path) -> dict[str, int]: ...


@dataclass(frozen=True)
class Benchmark:
    """`headline` is the key of the one figure of a score that stands for the whole; `size` the official
    number of questions. `asks` gives what a judge has to be asked about an answers file; `runs` whether its
    score averages several runs of the judge.

    blank: what cannot be answered (its medium is missing) stands in the answers as "", since the score would
    leave a missing answer out; else it is missing there, which the score counts as wrong.
    unpack: writes the media that lie inside the question files to a folder; gives how many.
    """

    id: str
    title: str
    headline: str
    questions: Questions
    score: Score
    media: Literal["image", "video"] = "image"
    size: int = 0
    max_new_tokens: int = 128
    aspect: Literal["pad", "crop"] = "pad"
    submission: Submission | None = None
    upload: str = ".json"  # how the submission's name ends
    asks: Callable[[Sequence[Path], Path], list[Ask]] | None = None
    runs: bool = False
    blank: bool = False
    unpack: Callable[[Sequence[Path], Path], int] | None = None
