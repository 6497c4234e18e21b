"""docs/claims.md and its picture: what was claimed, what a plan could decide, what was seen."""

from __future__ import annotations

import math
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.claims.arms import ARMS, CLAIMS, PROFILE, Claim, Contrast
from flows.claims.ground import Outcome
from flows.claims.plot import Line, draw
from flows.claims.pooled import MARGIN, Pooled, format_points, sentence, word_of
from flows.claims.power import ASSUMED, Plan, smallest_difference
from videollava.evaluate.compare import format_p, title_of
from videollava.evaluate.results import Results
from videollava.model.precision import bfloat16_pays

__all__ = ["Report", "describe_machine", "power_table", "write"]

PAGE, PICTURE = "claims.md", "claims.svg"
Scores = Mapping[str, Mapping[int, Mapping[str, Results]]]  # by arm, seed and benchmark


@dataclass(frozen=True)
class Report:
    """What a page is made of. commits: those that ran. asked: runs that the command asks for, done or not. plans: what
    was stated before of each contrast.
    """

    commits: Sequence[str]
    command: str
    asked: int
    seeds: Sequence[int]
    plans: Mapping[Contrast, Plan]
    outcomes: Mapping[tuple[str, int], Outcome]
    failed: Mapping[tuple[str, int], str]
    scores: Scores
    found: Mapping[str, Sequence[Pooled]]  # by claim's letter


def write(report: Report, folder: Path) -> list[str]:
    """Write page and picture into `folder`; the sentence of each claim."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        Line(
            f"({claim.letter}) {title_of(one.benchmark)}: {one.base} - {one.arm}",
            one,
            word_of(one, len(found)),
        )
        for claim in CLAIMS
        if (found := report.found.get(claim.letter))
        for one in found
    ]
    draw(lines, folder / PICTURE)
    sentences = [
        sentence(claim, report.found[claim.letter]) for claim in CLAIMS if claim.letter in report.found
    ]
    text = "\n".join([*_head(report, sentences), *_tables(report), *_how(report)])
    aside = folder / f"{PAGE}.tmp"
    aside.write_text(text + "\n")
    aside.replace(folder / PAGE)
    return sentences


def describe_machine() -> str:
    """Cores, processor, and what it computes in where a recipe asks for bfloat16."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.is_file() else [])
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.processor() or platform.machine()
    kind = "bfloat16" if bfloat16_pays() else "float32, being slower in bfloat16"
    return f"{os.cpu_count()} cores of {name}, computing in {kind}"


def power_table(plans: Mapping[Contrast, Plan]) -> list[str]:
    """What the plan decides four times in five, as lines of Markdown."""
    lines = [
        "| claim | benchmark | arms | questions | media | seeds | smallest difference, by questions of these models "
        "| of the recipe |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        for one in claim.contrasts:
            if plan := plans.get(one):
                answers, recipe = smallest_difference(plan, tests=len(claim.contrasts))
                said = f"{recipe:.1f} points" if math.isfinite(recipe) else "none: one seed"
                lines.append(
                    f"| {claim.letter} | {title_of(one.benchmark)} | {one.base}, {one.arm} | {plan.questions:,} | "
                    f"{plan.media} | {plan.seeds} | {answers:.1f} points | {said} |"
                )
    return lines


def _head(report: Report, sentences: Sequence[str]) -> list[str]:
    done = len(report.outcomes)
    hours = sum(outcome.seconds for outcome in report.outcomes.values()) / 3600
    commits = ", ".join(commit[:12] for commit in report.commits)
    many = f"{len(report.seeds)} seed{'s' if len(report.seeds) != 1 else ''}"
    return [
        "# The paper's claims, in small",
        "",
        f"Written by `{report.command}` at commit {commits} on {describe_machine()}: {done} retrainings of profile "
        f"`{PROFILE}` (up to {many} an arm), {hours:.1f} hours of retraining together.",
        *_lacking(report),
        "They are small models on generated scenes: what holds here need not hold at 7B, and the other way round.",
        "",
        *(f"- **{line.partition(':')[0]}**:{line.partition(':')[2]}" for line in sentences),
        "",
        f"![differences with their intervals]({PICTURE})",
    ]


def _lacking(report: Report) -> list[str]:
    left = report.asked - len(report.outcomes)
    return (
        [f"{left} more that it asks for are not done yet; called again it goes on with them."] if left else []
    )


def _tables(report: Report) -> list[str]:
    lines = [
        "",
        "## Differences",
        "",
        "An arm minus another, in points of 100. Over seeds: the mean of the seeds' differences, Student's "
        "interval at 95 %. By questions: all seeds' questions pooled, each medium drawn, or changing sign, as one.",
        "",
        "| claim | benchmark | arm | minus | score | score | over seeds [95%] | by questions [95%] | p | each seed "
        "| word |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        for one in report.found.get(claim.letter, ()):
            lines.append(_row(claim, one, len(report.found[claim.letter])))
    lines += [
        "",
        "Scores, the mean over seeds (blinded: the same model without the medium):",
        "",
        *_scores(report),
    ]
    return lines + _timed(report)


def _row(claim: Claim, one: Pooled, tests: int) -> str:
    paired = one.paired
    each = ", ".join(f"{value:+.1f}" for value in one.by_seed.values())
    answers = f"{paired.difference:+.2f} [{paired.low:+.2f}, {paired.high:+.2f}]"
    return (
        f"| {claim.letter} | {title_of(one.benchmark)} | {one.base} | {one.arm} | {paired.b:.2f} | {paired.a:.2f} | "
        f"{format_points(one.seeds)} | {answers} | {format_p(paired)} | {each} | {word_of(one, tests)} |"
    )


def _scores(report: Report) -> list[str]:
    names = sorted(
        {name for by_seed in report.scores.values() for found in by_seed.values() for name in found}
    )
    lines = [
        f"| arm | what it is | {' | '.join(title_of(name) for name in names)} | seeds |",
        f"|---|---|{'---|' * len(names)}---|",
    ]
    for arm in ARMS:
        by_seed = report.scores.get(arm.name, {})
        if not by_seed:
            continue
        cells = [_score([found[name] for found in by_seed.values() if name in found]) for name in names]
        lines.append(f"| `{arm.name}` | {arm.title} | {' | '.join(cells)} | {len(by_seed)} |")
    return lines


def _score(found: Sequence[Results]) -> str:
    if not found:
        return ""
    score = sum(one.score.value for one in found) / len(found)
    blind = [
        sum(answer.value for answer in one.blind.values()) / len(one.blind) for one in found if one.blind
    ]
    return f"{score:.1f}" + (f" (blinded {sum(blind) / len(blind):.1f})" if blind else "")


def _timed(report: Report) -> list[str]:
    lines = []
    for claim in CLAIMS:
        for one in report.found.get(claim.letter, ()) if claim.timed else ():
            base, other = (_seconds(report, name, claim.timed) for name in (one.base, one.arm))
            if base and other:
                lines += [
                    "",
                    f"CPU time of `{claim.timed}`, the mean over runs: {base:.0f} s in `{one.base}`, {other:.0f} s in "
                    f"`{one.arm}` ({100 * (base / other - 1):+.0f} %).",
                ]
    return lines


def _seconds(report: Report, arm: str, stage: str) -> float:
    found = [
        outcome.stages[stage]
        for (name, _), outcome in report.outcomes.items()
        if name == arm and stage in outcome.stages
    ]
    return sum(found) / len(found) if found else 0.0


def _how(report: Report) -> list[str]:
    lines = [
        "",
        "## What it could decide, stated before it ran",
        "",
        f"Four times in five, at 5 % shared by the contrasts of a claim, if {100 * ASSUMED.discordance:.0f} % of the "
        f"questions are answered rightly by one of two models alone, changes within a medium correlate by "
        f"{ASSUMED.within:g}, and the true differences of two seeds lie {ASSUMED.spread:g} points (a standard "
        "deviation) apart:",
        "",
        *power_table(report.plans),
        "",
        "A claim is *decided* where the pooled questions (their signs flipped by medium) and the interval over seeds "
        "both exclude no difference, each contrast of a claim at its share of 5 %: the questions say that these very "
        f"models differ, the seeds that the next would. Where both exclude a difference of {MARGIN:g} point, either "
        "way, there is *no difference*. One seed decides nothing.",
        "",
        "## How it is done",
        "",
        "Every arm is a retraining through the door of `make retrain`, in a clone of the checkout below "
        f"`.prefect/claims`, with profile `{PROFILE}`, one thing changed, and the same seeds for all arms. Stages that "
        "two arms share are computed once. A run that ended is kept by its code and settings: `make claims` goes on "
        "where it was stopped, and does nothing where all is done.",
        "",
        *(f"- `{arm.name}`: {arm.title}{_settings(arm.settings)}" for arm in ARMS),
        "",
        "(a2) asks for what the aim of alignment is: that one projector serves both. Its arms see one kind of medium "
        "in stages 1 and 2 and are asked about the other.",
        "",
        "In `separate` the video encoder's whole line (language encoder, image encoder, video encoder) learns by "
        "itself: the same initial vision weights, pairs, order and steps, but a language encoder that began and was "
        "taught otherwise. The image encoder is bit-equal to that of `aligned`.",
    ]
    if report.failed:
        lines += ["", "Runs that failed, and are in no figure:", ""]
        lines += [f"- seed {seed}, `{arm}`: {said}" for (arm, seed), said in sorted(report.failed.items())]
    return lines


def _settings(settings: Sequence[str]) -> str:
    return f" (`{shlex.join(settings)}`)" if settings else ""
