"""Answers to a benchmark's questions, apart from their scoring: logged as they come, resumed by id.

All batches are planned before anything is read, and whole units of them dealt to ranks (`planning`). A unit's media
are encoded once, decoded ahead in workers. One rank or several, in one go or after a kill: the batches are the
same, and so, on one kind of machine, is every bit of the answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from videollava.data.text.prompts import decode
from videollava.evaluate.answers import AnswerLog, Given
from videollava.evaluate.batches import Sample
from videollava.evaluate.generate import generate_together, is_cut
from videollava.evaluate.media import Encode, Encoded
from videollava.evaluate.planning import Row, Unit, deal, make_plan
from videollava.evaluate.prompting import prompt_sample
from videollava.evaluate.questions import Item
from videollava.evaluate.ranks import Ranks
from videollava.train.launch.pulse import beat

__all__ = ["Settings", "predict"]

SAY_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Settings:
    """How answers are made. batch_tokens: prompt and answer tokens of a batch, padding included."""

    max_new_tokens: int
    batch_tokens: int = 16384
    ranks: Ranks = field(default_factory=Ranks)


def predict(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    encode: Encode,
    log: AnswerLog,
    settings: Settings,
    *,
    name: str = "",
    given: Given | None = None,
    unseen: Mapping[str, str] | None = None,
) -> None:
    """Answer into `log` what it has no answer to yet, this rank's share.

    encode: the features of units' media, in turn (`encode_windows`, or `blindfold`). given: what the log held before
    any rank went on, as all of them must deal alike; by default it is read. unseen: of a blind pass, where all media
    of a kind are alike, the questions that are known to lack a medium, with the reason. A question without its
    medium, or whose prompt the model has no room for, is logged with that.
    """
    given = log.read() if given is None else given
    known = unseen or {}
    asked = [item for item in items if item.id not in known] if known else items
    new, ranks = settings.max_new_tokens, settings.ranks
    plan = make_plan(model, tokenizer, asked, settings.batch_tokens, new, blind=unseen is not None)
    pending = [unit for unit in plan.units if any(item.id not in given for item in unit.items)]
    units = [pending[place] for place in deal([unit.cost for unit in pending], ranks.size)[ranks.rank]]
    left = sum(item.id not in given for unit in units for item in unit.items)
    progress = _Progress(name, left, ranks)
    with log:
        if ranks.rank == 0:
            _log_known(log, given, known, plan.unasked)
        for unit, encoded in zip(units, encode([list(unit.media) for unit in units]), strict=True):
            for _ in _answer_unit(model, tokenizer, unit, encoded, given, log, new):
                progress.add()


def _log_known(log: AnswerLog, given: Given, known: Mapping[str, str], unasked: Mapping[str, str]) -> None:
    """What is known before anything is read."""
    for question, problem in {**known, **unasked}.items():
        if question not in given:
            log.lack(question, problem, unasked=question in unasked)


def _answer_unit(
    model: Any, tokenizer: Any, unit: Unit, encoded: Encoded, given: Given, log: AnswerLog, new: int
) -> Iterator[str]:
    """Log a unit's answers, batch by batch; gives each question then."""
    for batch in unit.batches:
        able = []
        for row in batch:
            problem = next((encoded.problems[m] for m in row.item.seen if m in encoded.problems), "")
            left = [item.id for item in row.items if item.id not in given]
            for question in left if problem else ():
                log.lack(question, problem)
                yield question
            if not problem and row.item.id not in given.problems:
                able.append(row)
        if all(item.id in given for row in able for item in row.items):
            continue
        # What was answered before a kill goes through once more: the batch is as it was to the last bit.
        samples = [_sample(model, tokenizer, row, encoded) for row in able]
        answers = generate_together(model, tokenizer, samples, new)
        for row, sample, ids in zip(able, samples, answers, strict=True):
            add = log.add_cut if is_cut(model, tokenizer, sample, ids, new) else log.add
            text = decode(ids, tokenizer, "v1")
            for question in [item.id for item in row.items if item.id not in given]:
                add(question, text)
                yield question


def _sample(model: Any, tokenizer: Any, row: Row, encoded: Encoded) -> Sample:
    images = [encoded.features[medium] for medium in row.item.seen if medium[0] == "image"]
    videos = [encoded.features[medium] for medium in row.item.seen if medium[0] == "video"]
    return prompt_sample(model, tokenizer, row.item.question, images, videos, f"question {row.item.id!r}")


class _Progress:
    """A line every ten seconds: how many of this rank's questions, how fast, how long still."""

    def __init__(self, name: str, total: int, ranks: Ranks) -> None:
        self.name = f"{name} (rank {ranks.rank})" if name and ranks.size > 1 else name
        self.total, self.done = total, 0
        self.began = self.said = time.monotonic()

    def add(self) -> None:
        self.done += 1
        beat()
        now = time.monotonic()
        if self.name and (now - self.said > SAY_EVERY or self.done == self.total):
            self.said = now
            rate = self.done / max(1e-9, now - self.began)
            left = (self.total - self.done) / rate
            print(
                f"{self.name} {self.done:,}/{self.total:,}  {rate:,.1f} questions/s  {left:,.0f} s left",
                flush=True,
            )
