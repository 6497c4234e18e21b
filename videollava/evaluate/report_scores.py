"""The report's figures: scores beside the blinded model, chance, champion and paper; by kind; mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videollava.errors import InputError
from videollava.evaluate import benchmarks, statistics
from videollava.evaluate.benchmarks import papers
from videollava.evaluate.charts import Marks, score_chart
from videollava.evaluate.compare import (
    SIGNIFICANT,
    Contrast,
    compare_results,
    format_p,
    title_of,
    verdict,
)
from videollava.evaluate.page import Markup, clip, join, table, tag
from videollava.evaluate.results import (
    Answer,
    Results,
    by_kind,
    full_marks,
    group_by_medium,
    interval,
    judge_name,
)
from videollava.evaluate.statistics import Interval
from videollava.gate import primary

__all__ = [
    "Scored",
    "answer_notes",
    "chart",
    "kinds_part",
    "paper_tables",
    "score_all",
    "score_notes",
    "score_table",
    "tiles",
]

NONE = "–"
ROUNDING = 0.0501  # metrics may be given to one decimal
MISTAKES = 8
MOST_TILES = 4


@dataclass(frozen=True)
class Scored:
    """One benchmark's figures; None: not measured.

    interval: of the score, where it is the mean of its answers. gain: over the blinded model. contrast: with
    the champion's answers, `refused` says why there is none although the champion has a score.
    """

    benchmark: str
    n: int
    value: float
    interval: Interval | None = None
    blind: float | None = None
    chance: float | None = None
    gain: Interval | None = None
    champion: float | None = None
    contrast: Contrast | None = None
    refused: str = ""

    @property
    def title(self) -> str:
        """Its name for people."""
        return title_of(self.benchmark)


def score_all(
    metrics: Mapping[str, Any],
    results: Mapping[str, Results],
    champion: Mapping[str, Results] | None = None,
    champion_metrics: Mapping[str, Any] | None = None,
) -> list[Scored]:
    """Figures of each benchmark in metrics.json; InputError where one has no score."""
    champions = champion or {}
    return [
        _score(name, figures, results.get(name), champions.get(name), (champion_metrics or {}).get(name))
        for name, figures in metrics.items()
    ]


def tiles(scores: Sequence[Scored]) -> Markup:
    """The scores in large; nothing where there are many."""
    if len(scores) > MOST_TILES:
        return Markup("")
    shown = []
    for one in scores:
        lines: list[str] = [one.title, tag("b", f"{one.value:.1f}")]
        if one.blind is not None:
            lines.append(tag("span", f"{one.value - one.blind:+.1f} over the blinded model", class_="soft"))
        if one.contrast:
            said = verdict(one.contrast.paired)
            style = {"better": "good", "worse": "bad"}.get(said, "soft")
            words = (
                "no clear difference from the champion" if style == "soft" else f"{said} than the champion"
            )
            lines += [tag("br"), tag("span", words, class_=style)]
        shown.append(tag("div", *lines, class_="tile"))
    return tag("div", *shown, class_="tiles")


def chart(scores: Sequence[Scored]) -> Markup:
    """All scores as dots on a line."""
    return score_chart(
        [
            Marks(
                one.title,
                one.interval or Interval(one.value, one.value, one.value),
                one.blind,
                one.chance,
                one.champion,
                full_marks(one.benchmark),
            )
            for one in scores
        ]
    )


def score_table(scores: Sequence[Scored], compared: bool) -> Markup:
    """A row a benchmark; the champion's columns where `compared`, the paper's where it has a figure."""
    published = any(papers.reference(one.benchmark) for one in scores)
    heads = ["benchmark", "questions", "score", "blinded", "over blinded", "chance"]
    heads += ["champion", "difference", "p"] if compared else []
    heads += [f"{papers.OURS}, paper"] if published else []
    rows = []
    for one in scores:
        row: list[str] = [
            one.title,
            f"{one.n:,}",
            _with_interval(one.value, one.interval),
            _points(one.blind),
        ]
        row += [_gain(one), _points(one.chance)]
        row += _champion_cells(one) if compared else []
        row += [_published(one.benchmark)] if published else []
        rows.append(row)
    return table(heads, rows)


def score_notes(scores: Sequence[Scored], compared: bool) -> list[str]:
    """What a reader must know of the score table."""
    notes = [
        "Small figures are 95% intervals: bootstrap over media with all of their questions, the exact binomial "
        "bound where all answers are right or all wrong. Blinded: the same model with every medium replaced by the "
        "mean of its kind. Chance: always the commonest answer to the question's kind."
    ]
    if compared:
        notes.append(
            "p: the chance of so large a difference between equal models, the sign of each medium's difference a "
            "coin's: McNemar's exact test where each medium has one question. "
            f"A difference counts as clear below {SIGNIFICANT}; each benchmark is tested by itself."
        )
    notes += [f"{one.title}: not compared with the champion. {one.refused}" for one in scores if one.refused]
    loose = [one.title for one in scores if one.interval is None]
    if loose:
        notes.append(f"No interval for {', '.join(loose)}: the score is not the mean of the answers at hand.")
    return notes


def answer_notes(one: Scored, metrics: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a benchmark's answers: those not given, not read, or read otherwise than meant."""
    judged = "judge" in metrics
    texts = {
        "missing_media": "{} questions whose medium is missing count as wrong.",
        "unasked": "{} questions could not be put to the model (too long for its positions, or empty): they count as "
        "wrong.",
        "cut_answers": "{} answers end where the model's positions do.",
        "invalid": "{} answers have no reply of the judge that could be read."
        if judged
        else "{} answers could not be read by the benchmark's rule and count as wrong.",
        "undecided": "{} verdicts say neither yes nor no, and leave the accuracy.",
        "lost_to_form": "{} verdicts are lost to the form of the judge's reply: the official script does not read "
        "what evaluate.judge.reader=tolerant would.",
        "read_otherwise": "{} answers say another option in their words than the official rule reads; "
        "{otherwise_right:,} of these would be right.",
    }
    counts = {"otherwise_right": 0, **metrics}
    notes = [text.format(f"{metrics[key]:,}", **counts) for key, text in texts.items() if metrics.get(key)]
    if metrics.get("judge_reader"):
        notes.append(
            f"the judge's replies were read by the {metrics['judge_reader']} reader, not as officially."
        )
    return [f"{one.title}: {note}" for note in notes]


def paper_tables(scores: Sequence[Scored]) -> Markup:
    """The paper's tables for the benchmarks it shares with us, this model in the last row; else nothing."""
    parts = []
    for source, title in ((papers.VIDEO_TABLE, "Video"), (papers.IMAGE_TABLE, "Image")):
        shared = [
            s for s in scores if s.benchmark in papers.COLUMNS and papers.COLUMNS[s.benchmark][0] is source
        ]
        if not shared:
            continue
        published = {one.benchmark: papers.figures(one.benchmark) for one in shared}
        rows = [
            [model, *(_figure(published[one.benchmark].get(model)) for one in shared)] for model in source
        ]
        rows.append([tag("b", "this model"), *(tag("b", f"{one.value:.1f}") for one in shared)])
        parts.append(
            table(
                ["model", *(one.title for one in shared)], rows, caption=f"{title} benchmarks, as published"
            )
        )
    return join(parts)


def kinds_part(one: Scored, results: Results) -> Markup:
    """A benchmark's scores for each kind of question, and its commonest mistakes."""
    answers = list(results.answers.values())
    parts: list[str] = []
    kinds = {kind: found for kind, found in by_kind(answers).items() if kind}
    if kinds:
        heads = ["kind", "questions", "score", *(["blinded"] if results.blind else [])]
        heads += ["champion", "difference", "p"] if one.contrast else []
        parts.append(table(heads, [_kind_row(k, found, one, results) for k, found in kinds.items()]))
    mistakes = list(_mistakes(answers))
    if mistakes:
        heads = ["gold", "said", "kind", "times", "of such questions"]
        shown = table(heads, mistakes, texts=3, caption="Commonest mistakes")
        parts.append(tag("details", tag("summary", "Commonest mistakes"), shown))
    return join([tag("h3", one.title), *parts]) if parts else Markup("")


def _score(
    name: str, figures: Any, results: Results | None, champion: Results | None, champion_figures: Any
) -> Scored:
    value = _headline(name, figures)
    if value is None:
        raise InputError(f"metrics.json: {name}: no score; run `videollava evaluate` again")
    found = results.score if results else None
    is_mean = found is not None and abs(found.value - value) < ROUNDING
    blind = _number(figures, f"blind_{_headline_key(name)}", "blind_accuracy", "blind_score")
    contrast, refused = _contrast(champion, results)
    theirs = _headline(name, champion_figures)
    if theirs is not None and not contrast and judge_name(figures) != judge_name(champion_figures):
        refused = refused or "The two were graded by different judges."
    if is_mean and contrast:
        theirs = contrast.a.value
    return Scored(
        benchmark=name,
        n=int(_number(figures, "n") or (len(results.answers) if results else 0)),
        value=value,
        interval=found if is_mean else None,
        blind=blind,
        chance=_number(figures, "chance"),
        gain=_gain_interval(results, blind) if is_mean and results else None,
        champion=None if refused else theirs,
        contrast=contrast,
        refused=refused,
    )


def _contrast(champion: Results | None, ours: Results | None) -> tuple[Contrast | None, str]:
    if champion is None or ours is None:
        return None, ""
    try:
        return compare_results(champion, ours, ("the champion's", "this model's")), ""
    except InputError as error:
        return None, str(error)


def _gain_interval(results: Results, blind: float | None) -> Interval | None:
    """Over the blinded model, paired by question; None where its answers are not the score's."""
    if blind is None or set(results.blind) != set(results.answers):
        return None
    dark = {key: answer.value for key, answer in results.blind.items()}
    seen = {key: answer.value for key, answer in results.answers.items()}
    paired = statistics.compare(dark, seen, group_by_medium(results.answers.values()))
    if abs(paired.a - blind) >= ROUNDING:
        return None
    return Interval(paired.difference, paired.low, paired.high)


def _headline_key(name: str) -> str:
    return benchmarks.get(name).headline if name in benchmarks.names() else "accuracy"


def _headline(name: str, figures: Any) -> float | None:
    found = figures if isinstance(figures, Mapping) else {}
    value = _number(found, _headline_key(name))
    return primary(found) if value is None else value


def _number(figures: Any, *keys: str) -> float | None:
    for key in keys:
        value = figures.get(key) if isinstance(figures, Mapping) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def _champion_cells(one: Scored) -> list[str]:
    if one.champion is None:
        return ["not comparable" if one.refused else "not scored", NONE, NONE]
    if one.contrast is None:
        return [_points(one.champion), _signed(one.value - one.champion), NONE]
    interval_ = _paired_interval(one.contrast.paired) if one.interval else None
    difference = _with_interval(one.value - one.champion, interval_, sign=True)
    return [_points(one.champion), _coloured(difference, one.contrast.paired), format_p(one.contrast.paired)]


def _kind_row(kind: str, found: Sequence[Answer], one: Scored, results: Results) -> list[str]:
    media = group_by_medium(found)
    groups = [media[answer.id] for answer in found]
    whole = interval([answer.value for answer in found], full_marks(one.benchmark), groups)
    row: list[str] = [kind, f"{len(found):,}", _with_interval(whole.value, whole)]
    if results.blind:
        dark = [results.blind[answer.id].value for answer in found if answer.id in results.blind]
        row.append(_points(sum(dark) / len(dark) if dark else None))
    if one.contrast:
        paired = one.contrast.by_kind[kind]
        difference = _with_interval(paired.difference, _paired_interval(paired), sign=True)
        row += [_points(paired.a), _coloured(difference, paired), format_p(paired)]
    return row


def _mistakes(answers: Sequence[Answer]) -> Iterator[list[str]]:
    """Wrong answers given more than once, the commonest first."""
    asked = Counter((answer.kind, answer.answer) for answer in answers)
    wrong = Counter((a.kind, a.answer, a.prediction) for a in answers if not a.correct)
    ordered = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
    for (kind, gold, said), times in ordered[:MISTAKES]:
        if times > 1:
            share = 100 * times / asked[kind, gold]
            yield [clip(gold, 60), clip(said, 60) or "(nothing)", kind, str(times), f"{share:.1f}%"]


def _gain(one: Scored) -> str:
    return NONE if one.blind is None else _with_interval(one.value - one.blind, one.gain, sign=True)


def _paired_interval(paired: statistics.Comparison) -> Interval:
    return Interval(paired.difference, paired.low, paired.high)


def _coloured(cell: str, paired: statistics.Comparison) -> Markup:
    style = {"better": "good", "worse": "bad"}.get(verdict(paired))
    return tag("span", cell, class_=style)


def _published(benchmark: str) -> str:
    return _figure(papers.reference(benchmark))


def _figure(figure: tuple[float | None, ...] | None) -> str:
    if figure is None:
        return NONE
    return " / ".join(NONE if part is None else f"{part:.1f}" for part in figure)


def _points(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _with_interval(value: float, found: Interval | None, sign: bool = False) -> Markup:
    form = "+.2f" if sign else ".2f"
    small = tag("small", f"{found.low:{form}} to {found.high:{form}}") if found else ""
    return tag("span", f"{value:{form}}", small)
