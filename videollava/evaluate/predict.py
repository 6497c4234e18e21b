"""Answers to a benchmark's questions, apart from their scoring: logged as they come, resumed by id.

Questions are sorted by their medium and cut into windows; a window's media are encoded once, decoded ahead in
workers, and its questions answered in batches sorted by length. Ranks take windows in turn. Windows and batches
follow from the questions alone, so that one rank or several, in one go or after a kill, give the same answers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from videollava.data.marks import find_marks
from videollava.data.prompts import decode, expand, marked, prompt
from videollava.data.records import Turn
from videollava.errors import InputError
from videollava.evaluate.answers import AnswerLog, Given
from videollava.evaluate.batches import Sample
from videollava.evaluate.generate import generate_each, is_cut
from videollava.evaluate.media import Encode, media_of
from videollava.evaluate.positions import check_length
from videollava.evaluate.questions import Item, Medium
from videollava.evaluate.ranks import Ranks

__all__ = ["Settings", "feature_bytes", "plan_windows", "predict", "prompt_sample"]

MARK = re.compile("<(?:image|video)>")
LEAST, MOST, PARTS = 64, 1024, 16  # questions of a window: a sixteenth of them, within these
FEATURES = 512 << 20  # bytes of features held at once
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
    unseen: Mapping[str, str] | None = None,
) -> None:
    """Answer into `log` what it has no answer to yet, this rank's share.

    encode: the features of windows of media, in turn (`encode_windows`, or `blindfold`). unseen: questions
    that are known to lack a medium, with the reason. A question without its medium, or whose prompt the model has
    no room for, is logged with that.
    """
    known = unseen or {}
    windows = plan_windows(items, feature_bytes(model))[settings.ranks.rank :: settings.ranks.size]
    given = log.read()
    pending = [window for window in windows if any(item.id not in given for item in window)]
    asked = [[item for item in window if item.id not in known] for window in pending]
    progress = _Progress(
        name, sum(item.id not in given for window in pending for item in window), settings.ranks
    )
    with log:
        for window, able, encoded in zip(pending, asked, encode([media_of(w) for w in asked]), strict=True):
            problems = {item.id: known[item.id] for item in window if item.id in known}
            for item in able:
                lacking = [encoded.problems[medium] for medium in item.seen if medium in encoded.problems]
                problems.update({item.id: lacking[0]} if lacking else {})
            left = {item.id: item for item in able if item.id not in problems}
            samples, unasked = _samples(model, tokenizer, left.values(), encoded.features)
            for question, problem in (problems | unasked).items():
                if question not in given:
                    log.lack(question, problem, unasked=question in unasked)
                    progress.add()
            for question, text, cut in _answer(model, tokenizer, samples, given, settings):
                (log.add_cut if cut else log.add)(question, text)
                progress.add()


def plan_windows(
    items: Sequence[Item], sizes: Mapping[str, int], memory: int = FEATURES, questions: int = 0
) -> list[list[Item]]:
    """Questions in windows by medium, whose features (`sizes` bytes for a medium of each kind) fit `memory`.

    questions: of a window, where one medium ends; by default it follows from how many there are.
    """
    most = questions or min(MOST, max(LEAST, -(-len(items) // PARTS)))
    windows: list[list[Item]] = []
    held: set[Medium] = set()
    for item in sorted(items, key=lambda item: item.media):
        needed = held | set(item.seen)
        length = len(windows[-1]) if windows else 0
        full = length >= (most if len(needed) > len(held) else 2 * most)
        if not windows or full or (held and sum(sizes[kind] for kind, _ in needed) > memory):
            windows.append([])
            needed = set(item.seen)
        windows[-1].append(item)
        held = needed
    return windows


def feature_bytes(model: Any) -> dict[str, int]:
    """Bytes that the encoder's features of one medium of each kind take."""
    config = model.config
    width = int(config.vision_config.hidden_size) * next(model.parameters()).element_size()
    return {"image": config.image_tokens * width, "video": config.video_tokens() * width}


def prompt_sample(
    model: Any,
    tokenizer: Any,
    question: str,
    images: Sequence[Tensor],
    videos: Sequence[Tensor],
    where: str = "",
) -> Sample:
    """A question with its media (pixels or features) as the generator takes it.

    InputError where the question is empty or does not fit its media; its subclass TooLong where the prompt, visual
    tokens counted, leaves no room for an answer in the model's positions.
    """
    if not MARK.sub("", question).strip():
        raise InputError(f"{where + ': ' if where else ''}the question is empty: ask something")
    kinds = ["image"] * len(images) + ["video"] * len(videos)
    placed: list[str] = [*find_marks(question)] if kinds else []  # without media marks are words
    if not placed:
        question = marked(question, kinds)
    elif sorted(placed) == sorted(kinds):
        kinds = placed
    config = model.config
    encoded = expand(
        prompt([Turn("human", question)], kinds, tokenizer, where=where),
        config.image_tokens,
        config.video_tokens(),
        config.image_token_id,
        config.video_token_id,
    )
    visual = len(images) * config.image_tokens + len(videos) * config.video_tokens()
    check_length(len(encoded.input_ids), config, visual, where)
    return Sample(encoded.input_ids, images, videos)


def _samples(
    model: Any, tokenizer: Any, items: Iterable[Item], features: Mapping[Medium, Tensor]
) -> tuple[dict[str, Sample], dict[str, str]]:
    """A window's prompts by question id, and why other questions have none."""
    samples, unasked = {}, {}
    for item in items:
        images = [features[medium] for medium in item.seen if medium[0] == "image"]
        videos = [features[medium] for medium in item.seen if medium[0] == "video"]
        try:
            samples[item.id] = prompt_sample(
                model, tokenizer, item.question, images, videos, f"question {item.id!r}"
            )
        except InputError as error:
            unasked[item.id] = str(error)
    return samples, unasked


def _answer(
    model: Any, tokenizer: Any, samples: Mapping[str, Sample], given: Given, settings: Settings
) -> Iterator[tuple[str, str, bool]]:
    """What is still unanswered of a window, batch by batch: question, answer, whether the positions cut it."""
    asked, new = list(samples), settings.max_new_tokens
    had = {row for row, question in enumerate(asked) if question in given.texts}
    answers = generate_each(
        model, tokenizer, list(samples.values()), new, batch_tokens=settings.batch_tokens, skip=had
    )
    for row, ids in answers:
        if row not in had:
            cut = is_cut(model, tokenizer, samples[asked[row]], ids, new)
            yield asked[row], decode(ids, tokenizer, "v1"), cut


class _Progress:
    """A line every ten seconds: how many of this rank's questions, how fast, how long still."""

    def __init__(self, name: str, total: int, ranks: Ranks) -> None:
        self.name = f"{name} (rank {ranks.rank})" if ranks.size > 1 else name
        self.total, self.done = total, 0
        self.began = self.said = time.monotonic()

    def add(self) -> None:
        self.done += 1
        now = time.monotonic()
        if self.name and (now - self.said > SAY_EVERY or self.done == self.total):
            self.said = now
            rate = self.done / max(1e-9, now - self.began)
            left = (self.total - self.done) / rate
            print(
                f"{self.name} {self.done:,}/{self.total:,}  {rate:,.1f} questions/s  {left:,.0f} s left",
                flush=True,
            )
