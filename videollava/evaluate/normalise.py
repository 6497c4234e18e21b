"""The official answer normalisers, and the plain one of the tiny profile.

`vqa` is that of the VQA evaluation tool, `m4c` that of TextVQA and of uploads to VQAv2 and VizWiz, `vizwiz`
that of the VizWiz tool. Their quirks are kept, since published figures hold them: at most 32 full stops are
removed (a flag is passed as the count), and a full stop stays only where a digit follows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from videollava.errors import InputError

__all__ = ["RULES", "exact", "m4c", "normalise", "vizwiz", "vqa"]

CACHED = 1 << 17
STOPS_REMOVED = 32
MARKS = frozenset(';/[]"{}()=+\\_-><@`,?!')
DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
STOP = re.compile(r"\.(?!\d)")
ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}

# What an answer that lost one apostrophe is put back to. Only these: the tools know no "shed" or "im".
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've
we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've
you'll you're you've
"""

# The VizWiz tool writes a typographic apostrophe everywhere but in these, so "dont" there becomes "don’t",
# which no person's answer is.
PLAIN_IN_VIZWIZ = frozenset(
    ("ain't", "aren't", "can't", "could've", "couldn't", "we've", "where's", "who've")
)
PLAIN_KEYS_IN_VIZWIZ = frozenset(("couldn'tve", "hadn'tve"))


def _contractions() -> dict[str, str]:
    table = {
        whole[:at] + whole[at + 1 :]: whole
        for whole in CONTRACTED.split()
        for at, letter in enumerate(whole)
        if letter == "'"
    }
    return table | {"somebody'd": "somebodyd"}  # the wrong way round in the tools themselves


def _typographic(table: Mapping[str, str]) -> dict[str, str]:
    return {
        key if key in PLAIN_KEYS_IN_VIZWIZ else key.replace("'", "’"): (
            whole if whole in PLAIN_IN_VIZWIZ else whole.replace("'", "’")
        )
        for key, whole in table.items()
    }


CONTRACTIONS = _contractions()
VIZWIZ_CONTRACTIONS = _typographic(CONTRACTIONS)


@lru_cache(CACHED)
def vqa(text: str) -> str:
    """The VQA tool's form of an answer: punctuation, lower case, number words, articles, contractions."""
    return _plain_words(_without_punctuation(_one_line(text)), CONTRACTIONS)


@lru_cache(CACHED)
def m4c(text: str) -> str:
    """M4C's form of an answer: lower case and `,` `?` `'s` first, then as `vqa`."""
    spaced = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _plain_words(_without_punctuation(_one_line(spaced)), CONTRACTIONS)


@lru_cache(CACHED)
def vizwiz(text: str) -> str:
    """The VizWiz tool's form of an answer: `vqa` with typographic apostrophes in most contractions."""
    return _plain_words(_without_punctuation(_one_line(text)), VIZWIZ_CONTRACTIONS)


def exact(text: str) -> str:
    """The tiny profile's form: lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().split()).rstrip(".").rstrip()


RULES: Mapping[str, Callable[[str], str]] = {"vqa": vqa, "m4c": m4c}


def normalise(rule: str, lines: Iterable[str]) -> Iterator[str]:
    """Apply one rule to each line, without its line end; `\\n` and `\\t` in a line stand for the
    characters.
    """
    if rule not in RULES:
        raise InputError(f"no rule {rule!r}: it may be {' or '.join(RULES)}")
    form = RULES[rule]
    for line in lines:
        yield form(line.removesuffix("\n").replace("\\n", "\n").replace("\\t", "\t"))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """A mark goes where a space touches it anywhere (or a digit-comma-digit is there), else becomes a
    space.
    """
    marks = MARKS.intersection(text)
    if marks:
        number = DIGIT_COMMA_DIGIT.search(text) is not None
        text = text.translate(
            {ord(m): None if number or m + " " in text or " " + m in text else " " for m in marks}
        )
    return STOP.sub("", text, count=STOPS_REMOVED) if "." in text else text


def _plain_words(text: str, contractions: Mapping[str, str]) -> str:
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in ARTICLES)
