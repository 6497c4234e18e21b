"""The report's samples: questions with their pictures and what was said, right, wrong, and changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from videollava.evaluate.compare import Change, Contrast, title_of
from videollava.evaluate.page import Markup, clip, join, tag
from videollava.evaluate.pictures import Album
from videollava.evaluate.results import Answer, Results, by_kind

__all__ = ["pick", "sample_cards"]

LONGEST = 600  # characters of an answer
MEDIA = 4  # pictures of a sample


def sample_cards(
    results: Results, champion: Results | None, contrast: Contrast | None, album: Album, count: int
) -> Markup:
    """At most `count` cards of each sort: broken and fixed since the champion, wrong, right.

    Which ones follows from their ids alone, spread over kinds and media, so that reports of two versions show
    the same questions where they can.
    """
    answers = results.answers.values()
    before = champion.answers if champion and contrast else {}
    changed: set[str] = set()
    groups: list[tuple[str, list[Answer]]] = []
    if contrast:
        changed = {change.after.id for change in (*contrast.broken, *contrast.fixed)}
        groups.append((_total("Lost since the champion", contrast.broken), _after(contrast.broken)))
        groups.append((_total("Gained since the champion", contrast.fixed), _after(contrast.fixed)))
    wrong = [answer for answer in answers if not answer.correct and answer.id not in changed]
    right = [answer for answer in answers if answer.correct and answer.id not in changed]
    seen = [a for a in right if a.id in results.blind and not results.blind[a.id].correct]
    also = ", as the champion" if contrast else ""
    groups.append((f"Wrong{also} ({len(wrong):,})", wrong))
    if seen:
        groups.append((f"Right where the blinded model is wrong ({len(seen):,})", seen))
    else:
        groups.append((f"Right ({len(right):,})", right))
    used: set[int | str] = set()
    parts = [
        part
        for title, found in groups
        for part in _group(title, pick(found, count, used), results, before, album)
    ]
    return join([tag("h3", title_of(results.benchmark)), *parts])


def pick(answers: Iterable[Answer], count: int, used: set[int | str]) -> list[Answer]:
    """At most `count` answers, kinds in turn, those with media not yet in `used` first; adds their media."""
    queues = [sorted(found, key=_shuffled) for found in by_kind(answers).values()]
    picked: list[Answer] = []
    while len(picked) < count and any(queues):
        for queue in queues:
            if queue and len(picked) < count:
                fresh = (place for place, a in enumerate(queue) if used.isdisjoint(a.media))
                picked.append(queue.pop(next(fresh, 0)))
                used.update(picked[-1].media)
    return picked


def _shuffled(answer: Answer) -> str:
    return hashlib.sha256(answer.id.encode(errors="replace")).hexdigest()


def _after(changes: Sequence[Change]) -> list[Answer]:
    return [change.after for change in changes]


def _total(title: str, changes: Sequence[Change]) -> str:
    return f"{title} ({len(changes):,})"


def _group(
    title: str, shown: Sequence[Answer], results: Results, before: Mapping[str, Answer], album: Album
) -> list[Markup]:
    if not shown:
        return [tag("p", f"{title}: none.", class_="note")]
    wide = any(album.is_video(medium) for answer in shown for medium in answer.media)
    cards = [_card(answer, results.blind.get(answer.id), before.get(answer.id), album) for answer in shown]
    return [tag("h4", title), tag("div", *cards, class_="cards wide" if wide else "cards")]


def _card(answer: Answer, blind: Answer | None, champion: Answer | None, album: Album) -> Markup:
    pictures = [album.picture(medium) for medium in answer.media[:MEDIA]]
    lines = [*_line("gold", clip(answer.answer, LONGEST), ""), *_said("this model", answer)]
    lines += _said("blinded", blind) if blind else []
    lines += _said("champion", champion) if champion else []
    label = " · ".join(part for part in (answer.kind, answer.id) if part)
    words = tag(
        "div",
        tag("p", clip(answer.question, LONGEST)),
        tag("dl", *lines),
        tag("p", label, class_="id"),
    )
    return tag("div", *([tag("div", *pictures)] if pictures else []), words, class_="card")


def _said(who: str, answer: Answer) -> list[Markup]:
    mark, style, word = ("✓", "good", "right") if answer.correct else ("✗", "bad", "wrong")
    return _line(who, clip(answer.prediction, LONGEST) or "(nothing)", mark, style, word)


def _line(who: str, text: str, mark: str, style: str = "", word: str = "") -> list[Markup]:
    sign = tag("span", f" {mark}", class_=style, role="img", aria_label=word) if mark else ""
    return [tag("dt", who), tag("dd", text, sign)]
