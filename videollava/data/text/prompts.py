r"""Conversations as token ids and labels: templates `v1` (Vicuna) and `plain` (stage 1).

A conversation is laid out as segments of text, control tokens and media placeholders, and each segment
is encoded by itself: labels follow from the layout, so no text in a message can shift them and no sample is
lost to a "tokenization mismatch". Ids and labels equal the original's preprocess_v1 and preprocess_plain
(videollava/train/train.py), save that a medium is one placeholder here (a video is eight there).

Marks count where media are given (marks.py): without media `<video>` is text, as for the original; beside media the
word is written `\<video>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from videollava.data.records.marks import find_marks, likenesses, mark, replace_words, split_at_marks, word
from videollava.data.text.bounds import TooLongError
from videollava.data.text.segments import Segments, segments_of
from videollava.errors import InputError

if TYPE_CHECKING:
    from videollava.data.records.record import Turn

__all__ = [
    "IGNORED",
    "IMAGE_PLACEHOLDER",
    "TEMPLATES",
    "VIDEO_PLACEHOLDER",
    "Encoded",
    "Template",
    "clean",
    "cut",
    "decode",
    "encode",
    "encode_batch",
    "expand",
    "marked",
    "prompt",
    "stop",
]

IGNORED = -100
IMAGE_PLACEHOLDER = -200
VIDEO_PLACEHOLDER = -201
_PLACEHOLDERS = {"image": IMAGE_PLACEHOLDER, "video": VIDEO_PLACEHOLDER}


@dataclass(frozen=True)
class Template:
    """How turns are written. `stop` "" means that the tokenizer's end-of-text token closes an answer."""

    name: str
    system: str = ""
    user: str = ""
    assistant: str = ""
    stop: str = ""


TEMPLATES = {
    "v1": Template(
        "v1",
        system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        user="USER:",
        assistant="ASSISTANT:",
    ),
    "plain": Template("plain", stop="\n"),
}


@dataclass(frozen=True)
class Encoded:
    """Token ids of one conversation and, position by position, its labels (IGNORED except answers).

    A medium is one placeholder (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER) until `expand` widens it.
    """

    input_ids: list[int]
    labels: list[int]

    @property
    def text_tokens(self) -> int:
        """Ids that are text, placeholders left out (before `expand`)."""
        return sum(token >= 0 for token in self.input_ids)

    @property
    def target_tokens(self) -> int:
        """Positions that carry a label."""
        return sum(label != IGNORED for label in self.labels)

    @property
    def media(self) -> tuple[str, ...]:
        """Kinds of the placeholders, in order (before `expand`)."""
        kinds = {value: kind for kind, value in _PLACEHOLDERS.items()}
        return tuple(kinds[token] for token in self.input_ids if token in kinds)


def encode(
    turns: Sequence[Turn],
    media: Sequence[str],
    tokenizer: Any,
    template: str = "v1",
    *,
    max_text_tokens: int | None = None,
    where: str = "",
) -> Encoded:
    """Encode a finished conversation for training.

    Args:
        turns: human and gpt in turn; a gpt turn before the first question is left out, as in the original.
        media: kinds ("image", "video") in the order of the `<image>` and `<video>` marks in human text; none:
            marks are text.
        tokenizer: fast or slow, of transformers; text that looks like a control token stays plain text.
        template: "v1", or "plain" (media, then the caption; the question is not used).
        max_text_tokens: longer text is cut off at the end; placeholders are never cut.
        where: names the record in errors.

    Raises:
        InputError: marks and media disagree, turns out of order, an empty answer; TooLongError: no label or not
            every medium is left.
    """
    writer = _Writer(segments_of(tokenizer), where)
    layout = _template(template, where)
    if template == "plain":
        _write_caption(writer, turns, media, layout)
    else:
        _write_rounds(writer, _rounds(turns, where, answered=True), media, layout)
    encoded = Encoded(writer.ids, writer.labels)
    return encoded if max_text_tokens is None else cut(encoded, max_text_tokens, where=where)


def cut(
    encoded: Encoded, max_text_tokens: int, *, bounded_by: str = "max_text_tokens", where: str = ""
) -> Encoded:
    """Cut text off at the end (before `expand`); TooLongError where a medium or every label would go with it.

    bounded_by: the parameter that the number comes from, for errors.
    """
    if encoded.text_tokens <= max_text_tokens:
        return encoded
    places = [place for place, token in enumerate(encoded.input_ids) if token >= 0]
    keep = places[max_text_tokens]
    if any(token < 0 for token in encoded.input_ids[keep:]):
        raise TooLongError(
            f"{_name(where)}a medium comes after the first {max_text_tokens} tokens of text: "
            f"split the conversation or raise {bounded_by}"
        )
    kept = Encoded(encoded.input_ids[:keep], encoded.labels[:keep])
    if not kept.target_tokens:
        raise TooLongError(
            f"{_name(where)}no answer begins within {max_text_tokens} tokens of text: "
            f"shorten the question or raise {bounded_by}"
        )
    return kept


def encode_batch(
    conversations: Iterable[tuple[Sequence[Turn], Sequence[str], str]],
    tokenizer: Any,
    template: str = "v1",
    *,
    max_text_tokens: int | None = None,
) -> list[Encoded | InputError]:
    """`encode` each (turns, media, where); a conversation that cannot be encoded gives its InputError."""
    results: list[Encoded | InputError] = []
    for turns, media, where in conversations:
        try:
            results.append(
                encode(turns, media, tokenizer, template, max_text_tokens=max_text_tokens, where=where)
            )
        except InputError as error:
            results.append(error)
    return results


def prompt(
    turns: Sequence[Turn],
    media: Sequence[str],
    tokenizer: Any,
    template: str = "v1",
    *,
    max_text_tokens: int | None = None,
    where: str = "",
) -> Encoded:
    """Encode a conversation that ends with a question, up to where the answer begins; labels are IGNORED.

    Raises:
        InputError: as `encode`, or the prompt has more than `max_text_tokens` tokens of text.
    """
    segments = segments_of(tokenizer)
    encoded = _Writer(segments, where)
    if template == "plain":
        _check_media([turn.text for turn in turns if turn.role == "human"], media, where)
        encoded.media(media)
    else:
        _write_rounds(encoded, _rounds(turns, where, answered=False), media, _template(template, where))
    if max_text_tokens is not None and encoded.text_tokens > max_text_tokens:
        raise InputError(
            f"{_name(where)}the prompt has {encoded.text_tokens} tokens of text, "
            f"more than {max_text_tokens}: shorten the question or leave out earlier turns"
        )
    return Encoded(encoded.ids, [IGNORED] * len(encoded.ids))


def expand(
    encoded: Encoded, image_tokens: int, video_tokens: int, image_token_id: int, video_token_id: int
) -> Encoded:
    """Widen each placeholder to its number of visual tokens, by the model's own ids; labels IGNORED."""
    wide = {
        IMAGE_PLACEHOLDER: [image_token_id] * image_tokens,
        VIDEO_PLACEHOLDER: [video_token_id] * video_tokens,
    }
    ids: list[int] = []
    labels: list[int] = []
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        if token >= 0:
            ids.append(token)
            labels.append(label)
        else:
            ids += wide[token]
            labels += [IGNORED] * len(wide[token])
    return Encoded(ids, labels)


def marked(question: str, media: Sequence[str]) -> str:
    """Put a mark for each medium before a bare question, one a line, as LLaVA's data do."""
    return "".join(f"{_mark(kind, '')}\n" for kind in media) + question


def stop(tokenizer: Any, template: str = "v1") -> str:
    """The text that closes an answer: the end-of-text token (v1) or a newline (plain)."""
    return _template(template, "").stop or str(tokenizer.eos_token)


def clean(answer: str, stop_text: str = "</s>") -> str:
    """An answer as people read it: without the stop text at its end and white space around it."""
    return answer.strip().removesuffix(stop_text.strip() or stop_text).strip()


def decode(ids: Sequence[int], tokenizer: Any, template: str = "v1") -> str:
    """Text of generated ids, up to the first stop token; control tokens and outer white space left out."""
    tokens = list(ids)
    if tokenizer.eos_token_id in tokens:
        tokens = tokens[: tokens.index(tokenizer.eos_token_id)]
    text: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    closing = _template(template, "").stop
    return clean(text.lstrip().split(closing, 1)[0] if closing else text, stop(tokenizer, template))


def _write_rounds(
    writer: _Writer, rounds: Sequence[tuple[str, str | None]], media: Sequence[str], template: Template
) -> None:
    _check_media([question for question, _ in rounds], media, writer.where)
    opening = f"{template.system} {template.user}"
    for question, answer in rounds:
        writer.text(opening)
        texts, kinds = split_at_marks(question) if media else ([question], [])
        _write_question(writer, texts, kinds, template.assistant)
        if answer is not None:
            writer.follow(replace_words(answer) if media else answer, labelled=True)
            writer.control(writer.segments.eos, labelled=True)
        opening = template.user


def _write_question(writer: _Writer, texts: Sequence[str], kinds: Sequence[str], closing: str) -> None:
    """` question ASSISTANT:`, with a placeholder between its texts."""
    texts = [*texts[:-1], f"{texts[-1]} {closing}"]
    writer.follow(texts[0])
    for kind, text in zip(kinds, texts[1:], strict=True):
        writer.media([kind])
        if text:
            writer.text(text)


def _write_caption(writer: _Writer, turns: Sequence[Turn], media: Sequence[str], template: Template) -> None:
    if [turn.role for turn in turns] != ["human", "gpt"]:
        raise InputError(
            f"{_name(writer.where)}the plain template takes one question and one caption, "
            f"not {len(turns)} turns: use the template v1"
        )
    if not media:
        raise InputError(f"{_name(writer.where)}the plain template needs an image or a video")
    if not turns[1].text.strip():
        raise InputError(f"{_name(writer.where)}the caption is empty")
    _check_media([turns[0].text], media, writer.where)
    writer.media(media)
    writer.text(replace_words(turns[1].text) + template.stop, labelled=True)


def _rounds(turns: Sequence[Turn], where: str, *, answered: bool) -> list[tuple[str, str | None]]:
    """(question, answer) pairs; the last answer is None where one is wanted."""
    kept = list(turns[1:] if turns and turns[0].role == "gpt" else turns)
    expected = len(kept) % 2 == (0 if answered else 1)
    if not kept or not expected or any(turn.role != ("human", "gpt")[i % 2] for i, turn in enumerate(kept)):
        last = "gpt" if answered else "human"
        roles = ", ".join(turn.role for turn in turns) or "none"
        raise InputError(
            f"{_name(where)}turns must go human, gpt, ... and end with {last}; they are: {roles}"
        )
    answers: list[str | None] = [turn.text for turn in kept[1::2]]
    if any(not answer or not answer.strip() for answer in answers):
        raise InputError(f"{_name(where)}an answer is empty: fill it in or leave its turn out")
    questions = [turn.text for turn in kept[::2]]
    return list(zip(questions, answers if answered else [*answers, None], strict=True))


def _check_media(questions: Sequence[str], media: Sequence[str], where: str) -> None:
    """InputError unless the marks in the questions are those of the media, in order; without media there are none."""
    wanted = [_mark(kind, where) for kind in media]
    marks = [mark(kind) for question in questions for kind in find_marks(question)]
    if media and marks != wanted:
        near = [found for question in questions for found in likenesses(question)]
        raise InputError(
            f"{_name(where)}{len(marks)} marks in its questions ({', '.join(marks) or 'none'}) "
            f"for {len(media)} media ({', '.join(media)}): write one for each, in their order"
            f"{f' (not {near[0]})' if near else ''}; the mere word is written {word('image')}"
        )


def _mark(kind: str, where: str) -> str:
    if kind not in _PLACEHOLDERS:
        raise InputError(
            f"{_name(where)}no mark for a medium of kind {kind!r}; it may be: {', '.join(_PLACEHOLDERS)}"
        )
    return f"<{kind}>"


def _template(name: str, where: str) -> Template:
    if name not in TEMPLATES:
        raise InputError(f"{_name(where)}no template {name!r}; there are: {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def _name(where: str) -> str:
    return f"{where}: " if where else ""


class _Writer:
    """Ids and labels of one conversation as it is laid out, segment by segment."""

    def __init__(self, segments: Segments, where: str) -> None:
        self.segments = segments
        self.where = where
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.placeholders = 0
        if segments.bos is not None:
            self.control(segments.bos)

    @property
    def text_tokens(self) -> int:
        return len(self.ids) - self.placeholders

    def control(self, token: int, *, labelled: bool = False) -> None:
        self.ids.append(token)
        self.labels.append(token if labelled else IGNORED)

    def media(self, kinds: Iterable[str]) -> None:
        for kind in kinds:
            self.control(_PLACEHOLDERS[kind])
            self.placeholders += 1

    def text(self, text: str, *, labelled: bool = False) -> None:
        """Text after a control token, a medium, or nothing."""
        self._add(self.segments.alone, text, labelled)

    def follow(self, text: str, *, labelled: bool = False) -> None:
        """Text after a role's colon, with a space between."""
        self._add(self.segments.after_colon, text, labelled)

    def _add(self, encoder: Callable[[str], list[int]], text: str, labelled: bool) -> None:
        try:
            ids = encoder(text)
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(
                f"{_name(self.where)}text that is not valid Unicode (half a surrogate pair): save it as UTF-8"
            ) from error
        self.ids += ids
        self.labels += ids if labelled else [IGNORED] * len(ids)
