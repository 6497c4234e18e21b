"""`videollava compare A B`: two evaluations, question by question. B minus A throughout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videollava.embedding.zero_shot.sets import APART, SETS
from videollava.errors import InputError
from videollava.evaluate import benchmarks, statistics
from videollava.evaluate.page import Markup, clip, document, join, section, table, tag
from videollava.evaluate.results import Answer, Results, by_kind, group_by_medium, read_results
from videollava.evaluate.statistics import Interval

__all__ = [
    "SIGNIFICANT",
    "Change",
    "Comparison",
    "Contrast",
    "compare",
    "compare_results",
    "comparison_table",
    "format_comparison",
    "format_difference",
    "format_interval",
    "format_p",
    "media_of",
    "title_of",
    "to_html",
    "verdict",
]

SIGNIFICANT = 0.05
NAMED = 3  # question ids in an error
LISTED = 10  # changed questions of a benchmark in a terminal
LISTED_HTML = 200


@dataclass(frozen=True)
class Change:
    """A question on which the two differ in points: A's answer and B's."""

    before: Answer
    after: Answer


@dataclass(frozen=True)
class Contrast:
    """One benchmark in two evaluations.

    a, b: the scores with 95% intervals. paired: B minus A with its interval and tests. by_kind: the same for
    each kind of question. fixed, broken: questions on which B is better, and worse. reworded: other words,
    the same points.
    """

    benchmark: str
    a: Interval
    b: Interval
    paired: statistics.Comparison
    by_kind: Mapping[str, statistics.Comparison]
    fixed: tuple[Change, ...]
    broken: tuple[Change, ...]
    reworded: int
    judge: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two evaluations: their names, what both were scored on, and benchmarks that only one has."""

    a: str
    b: str
    contrasts: tuple[Contrast, ...]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()


def compare(a: Path, b: Path) -> Comparison:
    """Compare two evaluation folders.

    InputError where they share no benchmark, or names the benchmark that two judges graded or that has other
    questions in one than in the other.
    """
    before, after = read_results(a), read_results(b)
    shared = [name for name in before if name in after]
    if not shared:
        raise InputError(
            f"{a} has {', '.join(before)} and {b} has {', '.join(after)}: no benchmark in common; "
            "evaluate both on the same"
        )
    return Comparison(
        a=str(a),
        b=str(b),
        contrasts=tuple(compare_results(before[name], after[name], (str(a), str(b))) for name in shared),
        only_a=tuple(name for name in before if name not in after),
        only_b=tuple(name for name in after if name not in before),
    )


def compare_results(a: Results, b: Results, names: tuple[str, str] = ("A", "B")) -> Contrast:
    """Compare two models' answers to one benchmark; InputError where that would not be fair."""
    _check_judges(a, b, names)
    _check_questions(a, b, names)
    pairs = [Change(old, b.answers[key]) for key, old in a.answers.items()]
    kinds, media = by_kind(a.answers.values()), media_of(a, b)
    return Contrast(
        benchmark=a.benchmark,
        a=a.score,
        b=b.score,
        paired=_paired(pairs, media),
        by_kind={
            k: _paired([Change(x, b.answers[x.id]) for x in found], media) for k, found in kinds.items() if k
        },
        fixed=tuple(pair for pair in pairs if pair.after.value > pair.before.value),
        broken=tuple(pair for pair in pairs if pair.after.value < pair.before.value),
        reworded=sum(
            p.after.value == p.before.value and p.after.prediction != p.before.prediction for p in pairs
        ),
        judge=a.judge,
    )


def media_of(a: Results, b: Results) -> dict[str, str]:
    """By question the medium it is about, by content where either evaluation has that."""
    known = a if all(len(answer.sums) == len(answer.media) for answer in a.answers.values()) else b
    return group_by_medium(known.answers.values())


def verdict(paired: statistics.Comparison) -> str:
    """ "better", "worse" or "unclear" (by chance as well)."""
    if paired.p >= SIGNIFICANT:
        return "unclear"
    return "better" if paired.difference > 0 else "worse"


def title_of(benchmark: str) -> str:
    """A benchmark's name for people; its id where it is none of ours."""
    alone = benchmark.removesuffix(APART)
    if alone != benchmark and alone in SETS:
        return f"{SETS[alone].title} (encoders)"
    return benchmarks.get(benchmark).title if benchmark in benchmarks.names() else benchmark


def format_interval(found: Interval) -> str:
    """ "99.13 [98.9, 99.3]"."""
    return f"{found.value:.2f} [{found.low:.1f}, {found.high:.1f}]"


def format_difference(paired: statistics.Comparison) -> str:
    """ "+0.89 [+0.64, +1.14]"."""
    return f"{paired.difference:+.2f} [{paired.low:+.2f}, {paired.high:+.2f}]"


def format_p(paired: statistics.Comparison) -> str:
    """ "0.031", "<0.001"."""
    return "<0.001" if paired.p < 0.001 else f"{paired.p:.3f}"


def format_comparison(comparison: Comparison, listed: int = LISTED) -> str:
    """A table for the terminal, then at most `listed` broken and fixed questions of each benchmark."""
    lines = [f"A: {comparison.a}", f"B: {comparison.b}", ""]
    lines += _aligned([_HEADS, *(row for contrast in comparison.contrasts for row in _rows(contrast))])
    lines += ["", *_notes(comparison)]
    for contrast in comparison.contrasts:
        for word, changes in (("broken", contrast.broken), ("fixed", contrast.fixed)):
            lines += _listing(f"{title_of(contrast.benchmark)}: {word}", changes, listed)
    return "\n".join(_printable(line) for line in lines)


def to_html(comparison: Comparison) -> str:
    """The comparison as one self-contained page."""
    names = f"B, {comparison.b}, against A, {comparison.a}"
    parts: list[str] = [tag("h1", "Two evaluations compared"), tag("p", names, class_="soft")]
    scores = [comparison_table(comparison.contrasts)]
    scores += [tag("p", note, class_="note") for note in _notes(comparison)]
    parts.append(section("scores", "Scores", *scores))
    for contrast in comparison.contrasts:
        lists = [
            _change_table(contrast.broken, "Right in A, wrong or worse in B"),
            _change_table(contrast.fixed, "Wrong in A, right or better in B"),
        ]
        parts.append(section(contrast.benchmark, f"{title_of(contrast.benchmark)}: what changed", *lists))
    return document("Two evaluations compared", *parts)


def comparison_table(contrasts: Sequence[Contrast]) -> Markup:
    """Scores, differences and tests of each benchmark, and of its kinds of question below it."""
    rows = [row for contrast in contrasts for row in _rows(contrast)]
    indented = [
        (tag("span", name.strip(), class_="sub" if name[0] == " " else None), *c) for name, *c in rows
    ]
    return table(_HEADS, indented)


_HEADS = ("benchmark", "questions", "A [95%]", "B [95%]", "B - A [95%]", "p", "verdict", "fixed", "broken")


def _rows(contrast: Contrast) -> Iterator[tuple[str, ...]]:
    name, scores = title_of(contrast.benchmark), (format_interval(contrast.a), format_interval(contrast.b))
    yield _row(name, scores, contrast.paired)
    for kind, paired in contrast.by_kind.items():
        yield _row(f"  {kind}", (f"{paired.a:.2f}", f"{paired.b:.2f}"), paired)


def _row(name: str, scores: tuple[str, str], paired: statistics.Comparison) -> tuple[str, ...]:
    test = (format_difference(paired), format_p(paired), verdict(paired))
    return (name, f"{paired.n}", *scores, *test, f"{paired.gained}", f"{paired.lost}")


def _notes(comparison: Comparison) -> Iterator[str]:
    yield (
        f"Verdicts at p < {SIGNIFICANT}, each row by itself: how often equal models come as far apart, the sign of "
        "each medium a coin's (McNemar's exact test where each has one question). Intervals: bootstrap over media."
    )
    for name, only in (("A", comparison.only_a), ("B", comparison.only_b)):
        if only:
            yield f"Only {name} was scored on {', '.join(map(title_of, only))}: not compared."
    for contrast in comparison.contrasts:
        if contrast.reworded:
            count, name = contrast.reworded, title_of(contrast.benchmark)
            yield f"{name}: {count} more {_plural(count, 'answer')} in other words, for the same points."
        if contrast.judge:
            yield f"{title_of(contrast.benchmark)}: both judged by {contrast.judge}."


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _listing(title: str, changes: Sequence[Change], listed: int) -> list[str]:
    if not changes:
        return []
    lines = ["", f"{title} ({len(changes)})"]
    for change in changes[:listed]:
        old, new = change.before, change.after
        lines.append(f"  {old.id}  {clip(old.question, 72)}  gold: {clip(old.answer, 32)}")
        lines.append(f"      A: {clip(old.prediction, 60)!r}  B: {clip(new.prediction, 60)!r}")
    if len(changes) > listed:
        lines.append(f"  ... and {len(changes) - listed} more")
    return lines


def _change_table(changes: Sequence[Change], title: str) -> Markup:
    if not changes:
        return tag("p", f"{title}: none.", class_="note")
    rows = [
        [
            clip(c.before.question, 300),
            clip(c.before.answer, 200),
            clip(c.before.prediction, 300),
            clip(c.after.prediction, 300),
            c.before.kind,
            c.before.id,
        ]
        for c in changes[:LISTED_HTML]
    ]
    left = len(changes) - len(rows)
    more = tag("p", f"… and {left} more", class_="note") if left else ""
    heads = ("question", "gold", "A said", "B said", "kind", "id")
    inner = join([table(heads, rows, texts=len(heads)), more])
    return tag("details", tag("summary", f"{title} ({len(changes)})"), inner)


def _paired(pairs: Sequence[Change], media: Mapping[str, str]) -> statistics.Comparison:
    before = {pair.before.id: pair.before.value for pair in pairs}
    after = {pair.before.id: pair.after.value for pair in pairs}
    return statistics.compare(before, after, media)


def _check_judges(a: Results, b: Results, names: tuple[str, str]) -> None:
    if a.judge != b.judge:
        who = [f"{name} by {one.judge or 'no judge'}" for name, one in zip(names, (a, b), strict=True)]
        raise InputError(
            f"{a.benchmark}: graded in {' and in '.join(who)}: two judges' scores are not comparable; "
            "grade both by one judge"
        )


def _check_questions(a: Results, b: Results, names: tuple[str, str]) -> None:
    differing = []
    for name, one, other in ((names[0], a, b), (names[1], b, a)):
        only = [key for key in one.answers if key not in other.answers]
        if only:
            differing.append(f"{len(only)} only in {name} ({', '.join(only[:NAMED])})")
    if differing:
        raise InputError(
            f"{a.benchmark}: not the same questions: {' and '.join(differing)}; "
            "evaluate both on the same data"
        )
    for key, old in a.answers.items():
        new = b.answers[key]
        for what, left, right in (("asks", old.question, new.question), ("expects", old.answer, new.answer)):
            # A gold may not be known where there was no answer to join it by.
            if left != right and (what == "asks" or (left and right)):
                raise InputError(
                    f"{a.benchmark}: question {key!r} {what} {clip(left, 80)!r} in {names[0]} and "
                    f"{clip(right, 80)!r} in {names[1]}; evaluate both on the same data"
                )
        if old.sums and new.sums and old.sums != new.sums:
            raise InputError(
                f"{a.benchmark}: question {key!r} is about other media in {names[0]} than in {names[1]} (their sums "
                "differ); evaluate both on the same data"
            )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _printable(text: str) -> str:
    """Text without control characters: a prediction must not steer the terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
