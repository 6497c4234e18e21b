"""What a judge is asked, in our words with the official judges' meaning, and how its reply is read.

The hash of a prompt sits with every score: figures of two prompts, or of two judges, are not comparable.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from videollava.evaluate.judge_words import recast_grade, recast_literal, recast_pair

__all__ = [
    "CONSISTENCY",
    "CONTEXT",
    "CORRECTNESS",
    "DETAIL",
    "GRADE",
    "MATCH",
    "PAIR",
    "TEMPORAL",
    "UNREADABLE_PAIR",
    "Ask",
    "Prompt",
    "Reader",
    "Verdict",
    "first_usable",
    "read_grade",
    "read_literal",
    "read_pair",
    "read_verdict",
    "whole_score",
]

Reply = Literal["literal", "grade", "pair"]
Reader = Literal["official", "tolerant"]
UNREADABLE_PAIR = (-1.0, -1.0)  # what LLaVA's script averages in for a review that it cannot read


@dataclass(frozen=True)
class Prompt:
    """A judge's task: system and user text (with fields in braces), and which form its reply must have.

    wants: the keys of a literal's verdict.
    """

    name: str
    version: int
    system: str
    user: str
    reply: Reply
    max_tokens: int = 64
    wants: tuple[str, ...] = ("score",)

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of all that the judge is told."""
        told = json.dumps([self.name, self.version, self.system, self.user, self.reply])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def usable(self, reply: str, reader: Reader = "official") -> bool:
        """Whether the reply can be read; else the judge is asked again."""
        return self.read(reply, reader) is not None

    def read(self, reply: str, reader: Reader = "official") -> str | None:
        """The reply in the official form, None where it cannot be read.

        The tolerant reader takes what the official parsers read wholly as they do, and puts the rest into their
        form.
        """
        if reader == "official":
            return reply if self._parsed(reply) is not None else None
        if self.whole(reply):
            return reply
        if self.reply == "literal":
            return recast_literal(reply, self.wants)
        return recast_grade(reply) if self.reply == "grade" else recast_pair(reply)

    def whole(self, reply: str) -> bool:
        """Whether the official parsers read all that is wanted: a literal may be one without a score."""
        parsed = self._parsed(reply)
        if self.reply != "literal" or parsed is None:
            return parsed is not None
        verdict = read_verdict(parsed[0])
        return verdict.score is not None and (verdict.match is not None or "pred" not in self.wants)

    def _parsed(self, reply: str) -> Any:
        if self.reply == "literal":
            return read_literal(reply)
        return read_grade(reply) if self.reply == "grade" else read_pair(reply)


@dataclass(frozen=True)
class Ask:
    """One judgement wanted: `id` in the benchmark, `run` where several runs are averaged."""

    id: str
    prompt: Prompt
    question: str
    answer: str
    prediction: str
    run: int = 0
    more: dict[str, str] = field(default_factory=dict, hash=False)

    def messages(self) -> list[dict[str, str]]:
        """The chat that puts it to the judge."""
        fields = {
            "question": self.question,
            "answer": self.answer,
            "prediction": self.prediction,
            **self.more,
        }
        user = self.prompt.user.format(**fields)
        return [{"role": "system", "content": self.prompt.system}, {"role": "user", "content": user}]


@dataclass(frozen=True)
class Verdict:
    """A video question's verdict under the official averaging: `score` None adds 0, `match` None votes
    nothing.
    """

    score: int | None
    match: bool | None


def read_literal(reply: str) -> tuple[Any] | None:
    """The Python literal that is the whole reply, in a tuple of one; None where it is none.

    As the official code: any literal that JSON can hold counts as a reply, so that a list is not asked again.
    """
    try:
        value = ast.literal_eval(reply)
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return (value,)


def read_verdict(value: Any) -> Verdict:
    """Score and match of a parsed reply.

    As the official code: the score is read first, and where it cannot be, the match is not counted either;
    "yes" is looked for before "no", anywhere in the text (so "unknown" is a no).
    """
    score = whole_score(value)
    word = value.get("pred") if isinstance(value, dict) else None
    if score is None or not isinstance(word, str):
        return Verdict(score, None)
    word = word.lower()
    return Verdict(score, True if "yes" in word else False if "no" in word else None)


def whole_score(value: Any) -> int | None:
    """`int()` of the reply's score, None where that fails (a missing score, None, "2.5")."""
    try:
        return int(value["score"])
    except (TypeError, KeyError, ValueError, OverflowError, IndexError):
        return None


def read_grade(reply: str) -> float | None:
    """MM-Vet's grade: the reply up to its first space, a number from 0 to 1."""
    try:
        grade = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


def read_pair(reply: str) -> tuple[float, float] | None:
    """LLaVA-Bench's two scores: the first line, commas as spaces, is two numbers a single space apart."""
    parts = reply.split("\n")[0].replace(",", " ").split(" ")
    if len(parts) != 2:
        return None
    try:
        return float(parts[0]), float(parts[1])
    except ValueError:
        return None


def first_usable(prompt: Prompt, replies: Sequence[str], reader: Reader = "official") -> str | None:
    """The reply that counts, in the official form: the first readable one of the attempts."""
    return next((read for reply in replies if (read := prompt.read(reply, reader)) is not None), None)


_ONLY_DICT = (
    "Answer with nothing but a Python dictionary on one line, with no comment before or after it, "
    "such as this one: {example}"
)
_PAIR_OF_VIDEO = (
    "Question about the video: {question}\nReference answer: {answer}\nAnswer to grade: {prediction}\n\n"
)


def _video_score(name: str, system: str, wanted: str) -> Prompt:
    """One of Video-ChatGPT's scores; `wanted` says what the 0-5 stand for."""
    user = (
        _PAIR_OF_VIDEO
        + f"Give a whole number from 0 to 5 for {wanted}, 5 being the best. "
        + _ONLY_DICT.format(example="{{'score': 4}}")
    )
    return Prompt(name, 1, system, user, "literal")


MATCH = Prompt(
    "match",
    1,
    "You grade answers to questions about videos. Decide whether an answer means the same as the reference "
    "answer. "
    "Other words for the same thing, and paraphrases, are matches; what counts is the meaning and whether "
    "it is "
    "right.",
    _PAIR_OF_VIDEO
    + "Say yes or no for whether they match in meaning, and a whole number from 0 to 5 for how well, 5 "
    "being a full "
    "match. The dictionary has the keys 'pred', which is 'yes' or 'no', and 'score', which is a number and "
    "not "
    "text. " + _ONLY_DICT.format(example="{{'pred': 'yes', 'score': 4}}"),
    "literal",
    wants=("pred", "score"),
)

CORRECTNESS = _video_score(
    "correctness",
    "You grade the facts in answers to questions about videos. An answer must agree with the reference "
    "answer and "
    "with what the video shows, and say nothing false or misread. Synonyms and paraphrases are right.",
    "how far the facts of the answer agree with the reference",
)

DETAIL = _video_score(
    "detail",
    "You grade how detailed answers to questions about videos are. Check that an answer covers every main "
    "point of "
    "the reference answer, and that it gives particulars of the video where a vague answer would give "
    "generalities. Synonyms and paraphrases are right.",
    "how complete and how specific the answer is beside the reference",
)

CONTEXT = _video_score(
    "context",
    "You grade whether answers to questions about videos understand the context. Check that an answer fits "
    "the main "
    "theme and mood of the video's content as the reference answer gives it, and does not misinterpret or "
    "contradict it. Synonyms and paraphrases are right.",
    "how well the answer understands the context",
)

TEMPORAL = _video_score(
    "temporal",
    "You grade whether answers to questions about videos get time right. Check that events come in the "
    "order in "
    "which the reference answer, and so the video, has them. Synonyms and paraphrases are right, if the "
    "order is kept.",
    "how right the answer is about the order and time of events",
)

CONSISTENCY = Prompt(
    "consistency",
    1,
    "You grade whether two answers to two wordings of one question about a video agree. Compare them with "
    "each other "
    "and with the reference answer; they should say the same thing, without contradiction. Synonyms and "
    "paraphrases are right.",
    "First question: {question}\nSecond question: {second_question}\nReference answer: {answer}\n"
    "Answer to the first question: {prediction}\nAnswer to the second question: {second_prediction}\n\n"
    "Give a whole number from 0 to 5 for how consistent the two answers are, 5 being fully consistent. "
    + _ONLY_DICT.format(example="{{'score': 4}}"),
    "literal",
)

GRADE = Prompt(
    "grade",
    1,
    "You grade a model's answer against the ground truth and reply with one number.",
    "Grade the last answer below from 0.0 (wholly wrong) to 1.0 (wholly right) in steps of 0.1. In a "
    "ground truth, "
    "<AND> joins parts that must all be in the answer, and <OR> separates alternatives of which one is "
    "enough. "
    "Complete the last line with the grade alone.\n\n"
    "Question | Ground truth | Answer | Grade\n"
    "How many legs and eyes has it? | 4 <AND> 2 | It has 3 legs. | 0.0\n"
    "How many legs and eyes has it? | 4 <AND> 2 | There are four legs. | 0.5\n"
    "How many legs and eyes has it? | 4 <AND> 2 | 2 eyes, and perhaps 4 or 6 legs. | 0.5\n"
    "How many legs and eyes has it? | 4 <AND> 2 | Two eyes and 4 legs. | 1.0\n"
    "Why is the sign funny? | The sign forbids reading signs, which nobody can obey without having read "
    "it. | It is "
    "a sign about signs. | 0.3\n"
    "Why is the sign funny? | The sign forbids reading signs, which nobody can obey without having read "
    "it. | It "
    "contradicts itself: only by reading it does one learn that one must not read it. | 1.0\n"
    "{question} | {answer} | {prediction} | ",
    "grade",
    max_tokens=8,
)

PAIR = Prompt(
    "pair",
    1,
    "You are a careful and fair assessor of answers.",
    "Two assistants answered a question about a picture. You do not see the picture; a description stands "
    "for it.\n\n"
    "Description:\n{context}\n\nQuestion:\n{question}\n\nAssistant 1:\n{answer}\n\nAssistant "
    "2:\n{prediction}\n\n"
    "Rate each answer from 1 to 10, higher being better, by helpfulness, relevance, accuracy and level of "
    "detail. Let "
    "neither the order of the answers nor anything but their content sway you. The first line of your "
    "reply must "
    "hold the two numbers alone, Assistant 1's and then Assistant 2's, with one space between them. Explain "
    "your ratings from the second line on.",
    "pair",
    max_tokens=1024,
)
