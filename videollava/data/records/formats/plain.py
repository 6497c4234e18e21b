"""Plain JSON lines, as people write them: a medium, and a question with its answer or a caption.

Also alpaca's (instruction, input, output), ms-swift's (query, response, history), a folder's metadata.jsonl
(file_name, text), lists of questions and answers, and questions with choices, which are written under the question and
answered by a letter, as LLaVA-1.5's were.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from videollava.data.records.conversations import REQUESTS
from videollava.data.records.conversion import FIELDS, KIND_OF, TURNS, all_paths
from videollava.data.records.endings import kind_of_file
from videollava.data.records.formats.format import Context, Item, ItemFormat
from videollava.data.records.formats.marking import mend_marks, put_marks
from videollava.data.records.gold import LETTERS, read_answers, read_choices
from videollava.data.records.keys import hint
from videollava.data.records.marks import KINDS, MediumKind
from videollava.data.records.rejected import RecordError

__all__ = ["PLAIN"]

# The first that holds something counts.
IDS = ("id", "question_id", "qid", "sample_id", "uid")
QUESTIONS = ("question", "prompt", "query", "instruction", "q", "Q")
ANSWERS = ("answer", "response", "output", "completion", "answers", "ground_truth", "gt", "label", "a", "A")
CAPTIONS = ("caption", "captions", "text", "description", "sentence")
PAIRS = ("qa", "QA", "qas", "qa_pairs", "questions")
CHOICES = ("choices", "options", "candidates")
LETTERED = ("{0}", "option_{0}", "choice_{0}")  # one field a choice, by its letter
NUMBERED = ("a{0}", "option_{0}", "option{0}", "choice_{0}")  # or by its number
TYPES = ("kind", "question_type", "type", "category", "q_type")
FILES = ("file_name", "filename", "file", "path", "filepath", "file_path", "media", "medium", "clip")
MODALITY = "modality"  # says of these what they are: a depth map looks like any picture
# Names of media under names of their own, often without an ending: the member of this name is found.
NAMED: dict[str, MediumKind] = {
    **dict.fromkeys(("video_name", "video_id"), "video"),
    **dict.fromkeys(("image_name", "imagename", "img"), "image"),
}
ALSO = ("input", "history", "system", "split")
LETTER_REQUEST = "Answer with the option's letter from the given choices directly."

_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:)]?")


def _fits(item: Item) -> bool:
    if any(isinstance(item.get(name), list) for name in TURNS):
        return False
    asked = all(_has(item, names) for names in _question_and_answer(item))
    told = _has(item, CAPTIONS) and _has(item, (*FILES, *NAMED, *KIND_OF))
    return asked or told or _has(item, PAIRS)


def _as_llava(item: Item, place: str, context: Context) -> Item:
    media = _media(item)
    kinds = [kind for kind, paths in all_paths(media, place).items() if paths]
    choices = _choices(item, place)
    turns: list[Item] = []
    for question, answer in _pairs(item, choices, kinds, place):
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    gold = {"kind": _type(item), "split": item.get("split"), **_gold(item, choices, place)}
    named = {"id": _first(item, IDS), **media, **{key: value for key, value in gold.items() if value}}
    _count_history(item, context)
    # What it does not know may be a medium under a slip of a name: from_llava looks at it.
    unknown = {key: item[key] for key in item if key not in _KNOWN}
    plain = {**unknown, **named, TURNS[0]: _with_system(item, turns)}
    return put_marks(mend_marks(plain, place, context.notes), place, context.notes)


def _has(item: Item, names: Sequence[str]) -> bool:
    return any(item.get(name) not in (None, "", []) for name in names)


def _first(item: Item, names: Sequence[str]) -> Any:
    return next((item[name] for name in names if item.get(name) not in (None, "", [])), None)


def _type(item: Item) -> str:
    """A question's type; what is neither a word nor a number is none."""
    found = _first(item, TYPES)
    return str(found) if isinstance(found, str | int) else ""


def _media(item: Item) -> Item:
    """Fields that name media, with those whose file's ending alone says the kind."""
    media = {field: item[field] for field in item if field in KIND_OF}
    said = next((kind for kind in KINDS if kind == item.get(MODALITY)), None)
    for name in (*FILES, *NAMED):
        value = item.get(name)
        for path in value if isinstance(value, list) else [value]:
            kind = NAMED.get(name) or said or kind_of_file(path) if isinstance(path, str) else None
            if kind is not None and not any(field in item for field in FIELDS[kind]):
                media.setdefault(kind, []).append(path)
    return media


def _pairs(
    item: Item, choices: tuple[str, ...], kinds: Sequence[MediumKind], place: str
) -> Iterator[tuple[str, str]]:
    """Questions and answers in their order."""
    yield from _history(item.get("history"), place)
    listed = _first(item, PAIRS)
    if isinstance(listed, list):
        for index, entry in enumerate(listed):
            yield _pair(entry, f"{place}: field {_name(item, PAIRS)}[{index}]")
        return
    if not _has(item, _question_and_answer(item)[0]):
        yield _told(item, kinds, place)
        return
    asked, answer = _pair(item, place)
    if isinstance(item.get("input"), str) and item["input"].strip():
        asked = f"{asked}\n{item['input']}"
    yield (_with_choices(asked, choices), _letter(answer, choices, place)) if choices else (asked, answer)


def _pair(entry: Any, place: str) -> tuple[str, str]:
    """A question and its answer, of an object or of a list of both."""
    if isinstance(entry, list | tuple) and len(entry) >= 2:
        return _text(entry[0], f"{place}: question"), _text(entry[1], f"{place}: answer")
    if not isinstance(entry, Mapping):
        raise RecordError("malformed record", f"{place}: must be an object with question and answer")
    asked, answered = _question_and_answer(entry)
    for names in (asked, answered):
        if not _has(entry, names):
            raise RecordError(
                "no conversation",
                f"{place}: field {names[0]}: is missing; name it {names[0]} or {names[1]}{hint(entry, names)}",
            )
    raw = _first(entry, answered)
    if isinstance(raw, list):
        raw = _commonest(read_answers(raw, place))
    question = _text(_first(entry, asked), f"{place}: field {_name(entry, asked)}")
    return question, _text(raw, f"{place}: field {_name(entry, answered)}")


def _question_and_answer(item: Item) -> tuple[Sequence[str], Sequence[str]]:
    """The names that question and answer may have in this item. POPE asks under `text`, beside a label."""
    if not _has(item, QUESTIONS) and _has(item, ("text",)) and _has(item, ANSWERS):
        return ("text", *QUESTIONS), ANSWERS
    if "B" in item or "b" in item:  # then A is a choice
        return QUESTIONS, tuple(name for name in ANSWERS if name not in ("a", "A"))
    return QUESTIONS, (*ANSWERS, *CAPTIONS)


def _told(item: Item, kinds: Sequence[MediumKind], place: str) -> tuple[str, str]:
    """A request for a caption, and the caption; of several the first."""
    raw = _first(item, CAPTIONS)
    if raw is None:
        known = (*QUESTIONS, *ANSWERS, *CAPTIONS, *PAIRS)
        raise RecordError(
            "no conversation",
            f"{place}: has neither question and answer nor a caption; name them so{hint(item, known)}",
        )
    told = _text(raw[0] if isinstance(raw, list) and raw else raw, f"{place}: field {_name(item, CAPTIONS)}")
    if not kinds:
        raise RecordError(
            "no conversation",
            f"{place}: a caption without a medium; name the medium in image or video{hint(item, ('image', 'video'))}",
        )
    requests = REQUESTS[kinds[0]]
    return requests[zlib.crc32(told.encode("utf-8", "replace")) % len(requests)], told


def _history(raw: Any, place: str) -> Iterator[tuple[str, str]]:
    if raw in (None, "", []):
        return
    if not isinstance(raw, list):
        raise RecordError("malformed record", f"{place}: field history: must be a list of [question, answer]")
    for index, entry in enumerate(raw):
        yield _pair(entry, f"{place}: field history[{index}]")


def _choices(item: Item, place: str) -> tuple[str, ...]:
    for name in CHOICES:
        if item.get(name) not in (None, "", []):
            return read_choices(item[name], f"{place}: field {name}")
    for patterns, names in (
        (LETTERED, LETTERS),
        (LETTERED, LETTERS.lower()),
        (NUMBERED, "0123456789"),
        (NUMBERED, "123456789"),
    ):
        for pattern in patterns:
            found = [item.get(pattern.format(name)) for name in names]
            count = next((index for index, value in enumerate(found) if value in (None, "")), len(found))
            if count > 1:
                return read_choices(found[:count], place)
    return ()


def _with_choices(question: str, choices: Sequence[str]) -> str:
    """The question with its choices below it, unless it names them already."""
    if all(choice in question for choice in choices):
        return question
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, *lines, LETTER_REQUEST])


def _letter(answer: str, choices: Sequence[str], place: str) -> str:
    """The letter of the right choice, which the answer gives as text, letter or number (from 0)."""
    plain = answer.strip()
    folded = [choice.strip().casefold() for choice in choices]
    if folded.count(plain.casefold()) == 1:
        return LETTERS[folded.index(plain.casefold())]
    letter = _LETTER.match(plain)
    if letter and (letter.end() == len(plain) or plain[letter.end() :].strip().casefold() in folded):
        place_of = LETTERS.index(letter[1].upper())
        if place_of < len(choices):
            return LETTERS[place_of]
    if plain.isdecimal() and len(plain) < 3 and int(plain) < len(choices):
        return LETTERS[int(plain)]
    raise RecordError(
        "answer is no choice",
        f"{place}: field answer: {plain[:40]!r} is none of its {len(choices)} choices; give its text, its letter, "
        "or its number from 0",
    )


def _gold(item: Item, choices: tuple[str, ...], place: str) -> Mapping[str, Any]:
    """Accepted answers and choices, where the item gives several."""
    if choices:
        return {"choices": list(choices), "answers": [_letter(_pair(item, place)[1], choices, place)]}
    for name in ("answers", "answer", "ground_truth"):
        if isinstance(item.get(name), list):
            return {"answers": list(read_answers(item[name], place))}
    return {}


def _commonest(answers: Sequence[str]) -> str:
    """The answer that most gave; of equals the first."""
    return max(answers, key=answers.count, default="")


def _with_system(item: Item, turns: list[Item]) -> list[Item]:
    system = item.get("system")
    if not turns or not isinstance(system, str) or not system.strip():
        return turns
    return [{**turns[0], "value": f"{system.strip()}\n\n{turns[0]['value']}"}, *turns[1:]]


def _count_history(item: Item, context: Context) -> None:
    captions = _first(item, CAPTIONS)
    if isinstance(captions, list) and len(captions) > 1 and not _has(item, (*QUESTIONS, *PAIRS)):
        context.notes["of several captions the first was taken"] += 1


def _name(item: Item, names: Sequence[str]) -> str:
    return next((name for name in names if item.get(name) not in (None, "", [])), names[0])


def _text(value: Any, place: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str | int | float):
        raise RecordError("malformed record", f"{place}: must be a text, not {type(value).__name__}")
    return str(value)


PLAIN = ItemFormat(
    "jsonl",
    "plain: image or video (or file_name), and question + answer, prompt + response, qa, or caption",
    _fits,
    _as_llava,
    (
        *IDS,
        *QUESTIONS,
        *ANSWERS,
        *CAPTIONS,
        *PAIRS,
        *CHOICES,
        *TYPES,
        *FILES,
        MODALITY,
        *ALSO,
        *NAMED,
        *KIND_OF,
    ),
)
_KNOWN = frozenset(PLAIN.keys)
