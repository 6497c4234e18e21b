"""`make claims`: every arm with every seed as a retraining, and what that says of the paper's claims."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.claims.arms import ARMS, CLAIMS, Arm, Contrast, choose_arms, params_of, seeds_of
from flows.claims.course import Course, Run
from flows.claims.ground import Ground, Outcome
from flows.claims.page import Report, describe_machine, power_table, write
from flows.claims.pooled import Pooled, pool
from flows.claims.power import Plan
from flows.places.git import ask_git, run_git
from flows.places.lock import hold_file
from flows.places.workspace import checkout
from flows.servers.server import prefect_server
from videollava.ends import AGAIN, INTERRUPTED
from videollava.errors import InputError
from videollava.evaluate.results import Results
from videollava.params import Params

__all__ = ["main"]

PICTURES = 9673  # easy-VQA's test questions
PER_PICTURE = 9.7  # of them about a picture
PER_CLIP = 9  # a generated clip's: eight of one event, ten of two


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run what is not done, write the page; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.claims", description=__doc__)
    parser.add_argument(
        "--seeds",
        default="",
        metavar="N or CLAIM=N,...",
        help="how many, from 0 on, of all arms or of those of a claim (as planned: "
        f"{','.join(f'{claim.letter}={claim.seeds}' for claim in CLAIMS)})",
    )
    parser.add_argument(
        "--arms",
        default="",
        help=f"letters of claims ({', '.join(claim.letter for claim in CLAIMS)}) or names of arms "
        f"({', '.join(arm.name for arm in ARMS)})",
    )
    parser.add_argument(
        "--at-once", type=int, default=min(2, os.cpu_count() or 1), help="seeds at once, a core or more each"
    )
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="for all arms"
    )
    parser.add_argument("--report", action="store_true", help="run nothing: of what is done already")
    parser.add_argument("--to", type=Path, default=Path("docs"), help="folder of page and picture (docs)")
    parser.add_argument("--workspace", type=Path, default=Path("."), help="the checkout (default: here)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _claim(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as told:
        print("\nstopped; `make claims` goes on where it was", file=sys.stderr)
        return AGAIN if isinstance(told, _Terminated) else INTERRUPTED


class _Terminated(KeyboardInterrupt):
    """By SIGTERM."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _command(options: argparse.Namespace) -> str:
    """What gives these figures, wherever they lie."""
    words = ["--seeds", options.seeds] if options.seeds else []
    words += ["--arms", options.arms] if options.arms else []
    words += [word for one in options.overrides for word in ("--set", one)]
    return "make claims" + (f' ARGS="{shlex.join(words)}"' if words else "")


def _claim(options: argparse.Namespace) -> int:
    home, arms = checkout(options.workspace), choose_arms(options.arms)
    if options.at_once < 1:
        raise InputError("--at-once must be at least 1")
    runs = _runs(arms, options.seeds)
    commit = run_git(home, "rev-parse", "HEAD")
    if ask_git(home, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs"):
        print(f"uncommitted changes are left out: what is tried is commit {commit[:12]}", flush=True)
    ground, more = Ground(home, commit), tuple(options.overrides)
    plans = _plans(params_of(home, arms[0], 0, more), runs)
    print(f"{len(arms)} arms, {len(runs)} retrainings on {describe_machine()}\n")
    print("\n".join(power_table(plans)) + "\n", flush=True)
    course = Course(ground, runs, options.at_once, more, _say)
    busy = f"{ground.folder}: another `make claims` is running here"
    ground.folder.mkdir(parents=True, exist_ok=True)
    course.recall()
    if not options.report and course.missing:
        with (
            hold_file(ground.folder / "claims.lock", busy, 2.0),
            prefect_server(ground.folder) as server,  # one for all runs: they find it by PREFECT_API_URL
        ):
            server.wait()
            course.run()
    return _report(course, plans, _command(options), home / options.to)


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _runs(arms: Sequence[Arm], asked: str) -> list[Run]:
    """Seed by seed: an interrupted plan has whole seeds."""
    needed = seeds_of(arms, asked)
    return [Run(arm, seed) for seed in range(max(needed.values())) for arm in arms if seed < needed[arm.name]]


def _plans(params: Params, runs: Sequence[Run]) -> dict[Contrast, Plan]:
    """What will be asked for each contrast: known from the recipe before anything has run."""
    limit, clips = params.evaluate.limit, sum(source.test for source in params.sources.values())
    plans = {}
    for contrast in (one for claim in CLAIMS for one in claim.contrasts):
        easy = contrast.benchmark == "easy_vqa"
        seeds = min(sum(run.arm.name == name for run in runs) for name in (contrast.base, contrast.arm))
        if seeds and contrast.benchmark in params.evaluate.benchmarks:
            each = PER_PICTURE if easy else PER_CLIP
            there = PICTURES if easy else clips * PER_CLIP
            questions = min(limit or there, there)
            plans[contrast] = Plan(questions, max(1, round(questions / each)), seeds)
    return plans


def _report(course: Course, plans: Mapping[Contrast, Plan], command: str, folder: Path) -> int:
    if not course.outcomes:
        print("error: no run ended, so there is nothing to tell", file=sys.stderr)
        return 1
    scores = _read(course.ground, course.outcomes)
    found = {claim.letter: tests for claim in CLAIMS if (tests := _test(claim.contrasts, scores))}
    seeds = sorted({seed for _, seed in course.outcomes})
    commits = sorted({outcome.commit for outcome in course.outcomes.values()})
    report = Report(
        commits, command, len(course.runs), seeds, plans, course.outcomes, course.failed, scores, found
    )
    for line in write(report, folder):
        print(line)
    print(f"\nwritten: {folder / 'claims.md'}")
    return 1 if course.failed else 0


def _read(
    ground: Ground, outcomes: Mapping[tuple[str, int], Outcome]
) -> dict[str, dict[int, dict[str, Results]]]:
    scores: dict[str, dict[int, dict[str, Results]]] = {}
    for (arm, seed), outcome in sorted(outcomes.items()):
        scores.setdefault(arm, {})[seed] = ground.results(outcome)
    return scores


def _test(
    contrasts: Sequence[Contrast], scores: Mapping[str, Mapping[int, Mapping[str, Results]]]
) -> list[Pooled]:
    found = []
    for one in contrasts:
        base, other = (
            {seed: by[one.benchmark] for seed, by in scores.get(arm, {}).items() if one.benchmark in by}
            for arm in (one.base, one.arm)
        )
        if set(base) & set(other):
            found.append(pool((one.base, one.arm), base, other))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
