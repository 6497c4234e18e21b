"""Which option an answer in a person's words chooses, where no official rule says how to read it.

"(c)", "Option C.", "The answer is C because ..", "A person is running" (where that is the text of C) are read;
what names two options, or none, or only denies one, is not: unread is better than a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from videollava.evaluate.plain import plain, without_reasoning

__all__ = ["read_choice", "read_yes_no"]

ARTICLES = ("a", "an", "the")
LITTLE = frozenset(
    (
        *ARTICLES,
        *("is", "are", "was", "were", "be", "been", "of", "in", "on", "at", "to", "and", "or"),
        *("it", "its", "this", "that", "there", "with", "by", "for", "from"),
    )
)
WORD = re.compile(r"[+-]?\d+(?:[.,:/]\d+)*%?|[^\W\d_]+(?:'[^\W\d_]+)*|\d+")
BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
TEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|rm|bf)\b\s*|[${}]")
CLAUSE = re.compile(
    r"[.;!?](?:\s|$)|\n|\b(?:(?<!\ball )(?<!thing )(?<!\bany )(?<!\bone )but|rather(?! than)|however|whereas)\b"
    r"|,(?!\d)",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"[.!?]\s+|\n")
DENIED_BEFORE = re.compile(
    r"\b(?:not|\w+n't|cannot|never|neither|nor|none|instead of|rather than|other than|except|unlike|excluding"
    r"|rules? out|ruled out|eliminates?|doubt|without|lacks?|(?:all|any|(?:any|every)(?:thing|one)) but"
    r"|no (?:signs?|trace|evidence|hint) of)\b"
    r"|(?<!option )(?<!choice )(?<!answer )(?<!number )\bno (?:[\w' ]{,40} (?:or|nor) )?$",
    re.IGNORECASE,
)
DENIED_AFTER = re.compile(
    r"(?:\s*(?:,|/|&|\band\b|\bor\b)\s*[A-Z]\b)*\W*"
    r"(?:(?:is|are|was|would be|seems|looks)\s+(?:(?:also|both|all|clearly)\s+)?"
    r"(?:not\b|(?:the |an? )?(?:incorrect|wrong|false)\b|untrue|ruled out|out\b|excluded)"
    r"|(?:isn't|aren't|can't|cannot|won't|doesn't)\b"
    r"|(?:incorrect|wrong|false)\b)",
    re.IGNORECASE,
)
SURE_NOT = re.compile(
    r"\bnot\s+(?:only|just|sure|certain|entirely|clear)\b|\bno doubt\b|\bwithout (?:a )?doubt\b",
    re.IGNORECASE,
)
# What may follow a letter that is a word in itself ("A", "I", a number) and still make it a label.
AFTER_LABEL = re.compile(
    r"\s*(?:$|[.,;:!?)\]\"'\u3002\uff0c\u3001\n/&+<|]|[-\u2013\u2014]\s"
    r"|\b(?:is|because|since|as|given|due|for|so|and|or|a|an|the)\b)"
)
CLOSED = re.compile(r"\s*(?:$|[.,;:!?)\]\"'\n<|])")
TELLING = (
    r"\b(?:answers?|choice|option|letter|choose|chose|select|pick|(?:think|believe|guess|say|likely)(?: that)? it)\b"
    r"(?:\s+(?:would|should|must|has to))?"
    r"(?:\s+(?:is|be|to be|as|was))?(?:\s+(?:option|choice|letter|clearly|most likely|probably|definitely))*"
    r"\s*[:=]?\s*"
)
# What a sentence has beside an option's words: "It is a person running", "The person in the video is running".
WEAK = frozenset(
    (*ARTICLES, "is", "are", "was", "were", "be", "being", "it", "it's", "this", "that", "there", "there's")
)
SHOWN = re.compile(
    r"\b(?:shown |seen |visible )?in (?:the|this) (?:video|clip|image|picture|photo|scene|footage)\b|\bhere\b",
    re.IGNORECASE,
)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True)
class _Claim:
    """An option named from `start` to `end`; `plain`: as the answer, not in passing."""

    label: str
    start: int
    end: int
    plain: bool = False


def read_choice(answer: str, options: Mapping[str, str]) -> str | None:
    """The label of the one option that `answer` names by label or text; None where it names none or several.

    Labels are single letters or numbers. Reasoning in `<think>` marks is left out, full-width letters and
    Markdown are taken as plain ones. An article or a pronoun is no label ("A person ..", "I think ..").
    """
    said = without_reasoning(answer)
    boxed = {_read(_bare(found), options) for found in BOXED.findall(said)}
    if boxed:
        return boxed.pop() if len(boxed) == 1 else None
    return _read(_bare(said), options)


def read_yes_no(answer: str) -> str | None:
    """ "yes" or "no" where an answer says just one of them; None for anything else."""
    return read_choice(answer, {"yes": "yes", "no": "no"})


def _bare(text: str) -> str:
    return plain(TEX.sub("", text))


def _read(text: str, options: Mapping[str, str]) -> str | None:
    alone = _alone(text, options)
    if alone:
        return alone
    mentions = _stand(text, _texts(text, options))
    labels = _stand(text, list(_labels(text, options, mentions)))
    plain = {claim.label for claim in labels if claim.plain}
    if len(plain) == 1:
        return _agreed(text, next(claim for claim in labels if claim.plain), mentions, options)
    named = {claim.label for claim in (*labels, *mentions)}
    if not plain and len(named) == 1:
        return named.pop()
    return (_reworded(text, options) or _part(text, options)) if not named else None


def _alone(text: str, options: Mapping[str, str]) -> str | None:
    """The label or the option's text that is the whole answer."""
    bare = text.strip(" \t\r\n.,:;!?()[]<>\"'#-")
    for label in options:
        if bare == label:
            return label
    same = [label for label, option in options.items() if _words(option) == _words(bare) or option == text]
    if len(same) == 1:
        return same[0]
    lower = [label for label in options if len(bare) == len(label) and bare.upper() == label.upper()]
    return lower[0] if len(lower) == 1 and not same else None


def _labels(text: str, options: Mapping[str, str], mentions: Sequence[_Claim]) -> Iterator[_Claim]:
    """Every place where a label is named: at the start with a mark behind, after a telling word, by itself."""
    names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    yield from _at_start(text, names, options)
    yield from _after_words(text, names, options)
    for found in re.finditer(rf"(?<![\w'/.+-])[(\[](?P<label>{names})[)\]]", text, re.IGNORECASE):
        yield _claim(found, found["label"], options)
    for found in re.finditer(rf"(?<![A-Za-z0-9'/+-])(?P<label>{names})(?![A-Za-z0-9'/+]|-\w|\.\d)", text):
        inside = any(claim.start <= found.start() < claim.end for claim in mentions)
        if not inside and _is_label(text, found.end(), found["label"], options):
            yield _claim(found, found["label"], options)
    for place, label in enumerate(list(options)[: len(ORDINALS)]):
        number = rf"(?:option|choice)\s+(?:no\.?\s*|number\s+)?{place + 1}"
        counted = rf"\b(?:{ORDINALS[place]}\s+(?:option|choice|answer)|{number})\b"
        if label.isalpha():
            yield from (_claim(found, label, options) for found in re.finditer(counted, text, re.IGNORECASE))


def _at_start(text: str, names: str, options: Mapping[str, str]) -> Iterator[_Claim]:
    """ "(c) ..", "C. ..", "C - .." at the beginning; nothing where several lines begin so: the options repeated."""
    pattern = (
        rf"\s*(?:[(\[](?P<label>{names})[)\]]|(?P<mark>{names})\s?(?:[).:\]]|\s[-\u2013\u2014]\s))(?!\w)"
    )
    listed = {found["mark"] for found in re.finditer(rf"(?<![\w'])(?P<mark>{names})\s?[).:](?=\s|$)", text)}
    found = re.match(pattern, text, re.IGNORECASE)
    if found and len(listed) < 2:
        yield _claim(found, found["label"] or found["mark"], options, plain=True)


def _after_words(text: str, names: str, options: Mapping[str, str]) -> Iterator[_Claim]:
    """ "The answer is (c)", "option C", "I choose B"."""
    for found in re.finditer(TELLING + rf"[(\[\"'<]*(?P<label>{names})(?![\w'+])", text, re.IGNORECASE):
        said = found["label"]
        named = re.search(rf"(?:option|choice|letter)\W+{re.escape(said)}$", found.group(), re.IGNORECASE)
        firm = named and (said in options or _closed(text, found.end()))
        if firm or _is_label(text, found.end(), said, options):
            answers = re.match(
                r"answer|cho[os]s?e|select|pick|think|believe|guess|say|likely", found.group(), re.IGNORECASE
            )
            yield _claim(found, said, options, plain=bool(answers))


def _claim(found: re.Match[str], said: str, options: Mapping[str, str], *, plain: bool = False) -> _Claim:
    label = said if said in options else next(name for name in options if name.upper() == said.upper())
    return _Claim(label, found.start(), found.end(), plain)


def _is_label(text: str, end: int, said: str, options: Mapping[str, str]) -> bool:
    """Whether a letter or number by itself is a label here, and no article, pronoun or count."""
    if said not in options:  # in lower case: only where nothing comes after it
        return _closed(text, end)
    if said == "I":
        return _closed(text, end) or bool(re.match(r"\s+is\b", text[end:]))
    if said != "A" and not said.isdigit():
        return True
    return bool(AFTER_LABEL.match(text, end))


def _closed(text: str, end: int) -> bool:
    return bool(CLOSED.match(text, end))


def _texts(text: str, options: Mapping[str, str]) -> list[_Claim]:
    """Every place where an option's text stands, words compared; not inside a longer option's."""
    places = [(found.group().casefold(), found.start(), found.end()) for found in WORD.finditer(text)]
    claims = []
    for label, option in options.items():
        wanted = _words(option)
        if not wanted:
            at = text.find(option.strip()) if option.strip() else -1
            claims += [_Claim(label, at, at + len(option.strip()))] if at >= 0 else []
            continue
        for at in range(len(places) - len(wanted) + 1):
            if [word for word, _, _ in places[at : at + len(wanted)]] == wanted:
                claims.append(_Claim(label, places[at][1], places[at + len(wanted) - 1][2]))
    return [one for one in claims if not any(_holds(other, one) for other in claims)]


def _holds(outer: _Claim, inner: _Claim) -> bool:
    wider = outer.end - outer.start > inner.end - inner.start
    return wider and outer.start <= inner.start and inner.end <= outer.end


def _stand(text: str, claims: Sequence[_Claim]) -> list[_Claim]:
    """The claims that are not denied in their own clause ("not A but B", "A is wrong")."""
    kept = []
    for claim in claims:
        begins = max((found.end() for found in CLAUSE.finditer(text, 0, claim.start)), default=0)
        before = SURE_NOT.sub("", text[begins : claim.start])
        if not DENIED_BEFORE.search(before) and not DENIED_AFTER.match(text, claim.end):
            kept.append(claim)
    return kept


def _agreed(text: str, claim: _Claim, mentions: Sequence[_Claim], options: Mapping[str, str]) -> str | None:
    """The label that is plainly said, unless its own sentence gives another option's text."""
    ends = next((found.start() for found in SENTENCE.finditer(text, claim.end)), len(text))
    beside = {mention.label for mention in mentions if claim.end <= mention.start < ends}
    return claim.label if not beside or claim.label in beside else None


def _reworded(text: str, options: Mapping[str, str]) -> str | None:
    """The only option whose telling words stand together in an answer, with other little words between them."""
    said = SHOWN.sub(" ", text)
    places = [found for found in WORD.finditer(said) if found.group().casefold() not in WEAK]
    words = [found.group().casefold() for found in places]
    claims = []
    for label, option in options.items():
        wanted = [word for word in _words(option) if word not in WEAK]
        spans = (slice(at, at + len(wanted)) for at in range(len(words) - len(wanted) + 1) if len(wanted) > 1)
        found = (places[span] for span in spans if words[span] == wanted)
        claims += [_Claim(label, one[0].start(), one[-1].end()) for one in found]
    told = {
        claim.label
        for claim in _stand(said, claims)
        if not DENIED_BEFORE.search(said[claim.start : claim.end])
    }
    return told.pop() if len(told) == 1 else None


def _part(text: str, options: Mapping[str, str]) -> str | None:
    """The only option that has all the words of an answer, in their order, where these are half of what it says."""
    said = _words(re.sub(r"^(?:it is|it's|this is|the answer is|that is)\b", "", text, flags=re.IGNORECASE))
    if not said:
        return None
    held = [label for label, option in options.items() if _within(said, _words(option))]
    if len(held) != 1:
        return None
    telling, whole = (sum(word not in LITTLE for word in words) for words in (said, _words(options[held[0]])))
    return held[0] if telling and 2 * telling >= whole else None


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    return any(list(whole[at : at + len(part)]) == list(part) for at in range(len(whole) - len(part) + 1))


def _words(text: str) -> list[str]:
    """Words and numbers in lower case, without an article before them."""
    words = [found.casefold() for found in WORD.findall(plain(text))]
    return words[1:] if len(words) > 1 and words[0] in ARTICLES else words
