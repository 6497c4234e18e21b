"""A judge's reply in words, put into the form that the official parsers read: the tolerant reader.

Reasoning, code fences, JSON, a sentence around the verdict, "4/5" and "four" are taken; where a reply holds two
verdicts that differ, or a number of another scale, it stays unread.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from videollava.evaluate.plain import plain, without_reasoning

__all__ = ["recast_grade", "recast_literal", "recast_pair"]

LONGEST = 20_000  # characters of an object that are looked at
INNERMOST = re.compile(r"\{[^{}]*\}")
NUMBER = r"(?<![\w.,])(?<!\d[eE][-+])[-+]?(?:\d+(?:[.,]\d+)?|\.\d+)(?![\w%]|[.,]\d)"
COUNTS = {word: place for place, word in enumerate(("zero", "one", "two", "three", "four", "five"))}
OF_FIVE = re.compile(
    r"([-+]?\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*(\d+)(?:\.0)?)?(?:\s*points?)?", re.IGNORECASE
)
# A number ends here: "4%", "4-5", "4 or 5", "1e400" are none of a scale to five.
ENDED = r"(?![\w%]|[.,]\d|\s*(?:[-\u2013/]|to\b|or\b|of\b|out of\b)\s*\d)"
YES = ("yes", "y", "true", "correct", "right", "match")
NO = ("no", "n", "false", "incorrect", "wrong", "no match", "not a match", "mismatch")
MATCHES = ("pred", "prediction", "match", "verdict", "result", "answer", "correct")
SCORES = ("score", "rating", "grade", "points")
SAID_MATCH = re.compile(
    r"\b(?:pred(?:iction)?|match|verdict)\b[\"']?\s*(?:is\b)?\s*[:=]?\s*[\"']?(yes|no|true|false)\b",
    re.IGNORECASE,
)
SAID_SCORE = re.compile(
    r"\b(?:score|rating)\b[\"']?\s*(?:is\b|of\b)?\s*[:=]?\s*[\"']?"
    r"([-+]?\d+(?:\.\d+)?|zero\b|one\b|two\b|three\b|four\b|five\b)(?:\s*(?:/|(?:out )?of)\s*(\d+))?" + ENDED,
    re.IGNORECASE,
)
BEGINS = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
ALONE = re.compile(r"\W*(?:(yes|no)\W+)?(\d(?:\.\d+)?)(?:\s*(?:/|out of)\s*5)?\W*", re.IGNORECASE)
GRADED = re.compile(
    rf"\b(?:grade|score|rating)\b[\"']?\W{{0,3}}(?:(?:is|of|would be)\b\W*)?({NUMBER})(?:\s*/\s*1(?:\.0)?(?![\d.]))?",
    re.IGNORECASE,
)
ONE_NUMBER = re.compile(rf"\W*?({NUMBER})(?:\s*/\s*1(?:\.0)?)?\W*")
WHO = re.compile(
    r"\b(?:assistant|answer|response|model)\s*#?\s*(?:[12]|[ab])\b(?:'s)?|\b(?:score|rating)\s*#?\s*[12]\s*[:=]",
    re.IGNORECASE,
)
RATED = re.compile(
    rf"\b(?:assistant|answer|response|model|(?:score|rating)(?=\s*#?\s*[12]\s*[:=]))\s*#?\s*([12])\b(?:'s)?\W*(?:(?:score|rating)\b\W*)?(?:(?:is|gets)\b\W*)?({NUMBER})",
    re.IGNORECASE,
)
OF_TEN = re.compile(r"\s*(?:/|out of)\s*10\b")


def recast_literal(reply: str, wants: Sequence[str]) -> str | None:
    """`{'pred': 'yes', 'score': 4}` of what a reply says, or `{'score': 4}` where only that is wanted; else None."""
    text = _unquoted(plain(without_reasoning(reply)))
    verdicts = {_verdict(found, wants) for found in _mappings(text)} - {None}
    if not verdicts:
        verdicts = {_spoken(text, wants)}
    return verdicts.pop() if len(verdicts) == 1 else None


def recast_grade(reply: str) -> str | None:
    """The one grade from 0 to 1 that a reply gives, as a number alone."""
    text = plain(without_reasoning(reply))
    lines = [line.rpartition("|")[2] for line in text.splitlines() if line.strip()]
    said = [_one_number(found) for found in _mappings(text)]
    said += [found[1] for found in GRADED.finditer(text)]
    said += [found[1] for found in map(ONE_NUMBER.fullmatch, lines) if found]
    numbers = {_float(number) for number in said if number is not None} or set(
        map(_float, re.findall(NUMBER, text))
    )
    grade = numbers.pop() if len(numbers) == 1 else None
    return str(grade) if grade is not None and 0 <= grade <= 1 else None


def recast_pair(reply: str) -> str | None:
    """The two ratings from 0 to 10 that a reply gives, a space between."""
    text = OF_TEN.sub("", plain(without_reasoning(reply)))
    rated: dict[str, set[float]] = {}
    for found in RATED.finditer(text):
        rated.setdefault(found[1], set()).add(_float(found[2]))
    if rated.keys() == {"1", "2"} and all(len(ratings) == 1 for ratings in rated.values()):
        return _pair([rated["1"].pop(), rated["2"].pop()])
    lines = [line for line in text.splitlines() if line.strip()]
    told = [list(map(_float, re.findall(NUMBER, WHO.sub(" ", line)))) for line in lines]
    bare = [
        numbers
        for line, numbers in zip(lines, told, strict=True)
        if not re.search(r"[^\W\d]", line.replace("and", ""))
    ]
    pairs = [numbers for numbers in bare if len(numbers) == 2]
    if [len(numbers) for numbers in bare] == [1, 1] and len(bare) == len(told):  # one below the other
        return _pair([bare[0][0], bare[1][0]])
    if told and len(told[0]) == 2:
        return _pair(told[0])
    return _pair(pairs[0]) if len(pairs) == 1 and not (told and told[0]) else None


def _pair(ratings: Sequence[float]) -> str | None:
    return (
        " ".join(f"{rating:g}" for rating in ratings)
        if all(0 <= rating <= 10 for rating in ratings)
        else None
    )


def _mappings(text: str) -> Iterator[Mapping[str, Any]]:
    """Every object in a text, in Python's, JSON's or a person's notation; a whole one before those in it."""
    first, last = text.find("{"), text.rfind("}")
    if first < 0 or last < first or last - first > LONGEST:
        return
    whole = _mapping(text[first : last + 1])
    spans = [whole] if whole is not None else map(_mapping, INNERMOST.findall(text))
    for found in spans:
        if found is not None:
            inner = [value for value in found.values() if isinstance(value, dict)]
            yield from (_lowered(one) for one in (inner or [found]))


def _unquoted(text: str) -> str:
    """The text of a reply that is one JSON string."""
    if text.startswith('"'):
        try:
            value = json.loads(text)
        except ValueError:
            return text
        return value if isinstance(value, str) else text
    return text


def _mapping(span: str) -> dict[Any, Any] | None:
    for parse in (ast.literal_eval, json.loads, _loosely):
        try:
            value = parse(span)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return None


def _loosely(span: str) -> Any:
    """YAML's flow notation needs no quotes and knows true, yes and null."""
    import yaml

    try:
        return yaml.safe_load(span)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _lowered(found: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key).strip().lower(): value for key, value in found.items()}


def _verdict(found: Mapping[str, Any], wants: Sequence[str]) -> str | None:
    scores = [_score(found[key]) for key in SCORES if key in found]
    if not scores and "pred" not in wants and len(found) == 1:  # named for what is rated
        scores = [_score(value) for value in found.values()]
    match = next((_match(found[key]) for key in MATCHES if key in found), None)
    return _written(match, scores[0] if scores else None, wants)


def _written(match: bool | None, score: int | None, wants: Sequence[str]) -> str | None:
    if score is None or ("pred" in wants and match is None):
        return None
    kept = {"pred": "yes" if match else "no", "score": score} if "pred" in wants else {"score": score}
    return str(kept)


def _score(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        word = plain(value).lower()
        found = OF_FIVE.fullmatch(word)
        if word in COUNTS:
            return COUNTS[word]
        if found is None or found[2] not in (None, "5"):
            return None
        value = float(found[1])
    return int(value) if isinstance(value, int | float) and 0 <= value <= 5 else None


def _match(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    word = plain(str(value)).strip(" .!").lower()
    if word in YES or word in NO:
        return word in YES
    found = set(re.findall(r"\b(yes|no)\b", word))
    return found == {"yes"} if len(found) == 1 else None


def _spoken(text: str, wants: Sequence[str]) -> str | None:
    """A verdict that stands in no object: "Yes, 4", "pred: yes, score: 4/5", "4" where a score is all."""
    if alone := ALONE.fullmatch(text):
        return _written(_match(alone[1]) if alone[1] else None, _score(alone[2]), wants)
    scores = {
        _score(f"{found[1]}/{found[2]}" if found[2] else found[1]) for found in SAID_SCORE.finditer(text)
    }
    matches = {_match(found[1]) for found in SAID_MATCH.finditer(text)}
    if not matches and (begins := BEGINS.match(text)):
        matches = {_match(begins[1])}
    if len(scores) != 1 or len(matches) > 1:
        return None
    return _written(matches.pop() if matches else None, scores.pop(), wants)


def _one_number(found: Mapping[str, Any]) -> str | None:
    numbers = [found[key] for key in SCORES if key in found] or list(found.values())
    return str(numbers[0]) if len(numbers) == 1 and re.fullmatch(NUMBER, str(numbers[0])) else None


def _float(number: str) -> float:
    return float(number.replace(",", "."))
