"""The commands on predictions: each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from videollava.command import Arguments, Command, add_params, file_to_write, folder_to_write
from videollava.errors import InputError

__all__ = ["SCORING"]

PAGE = "the page of the benchmark that you put into this form"


def _add_gold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gold",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        help="gold files or folders, in any order; may be repeated",
    )


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark")
    _add_gold(parser)
    parser.add_argument("--answers", type=Path, help="the predictions")
    parser.add_argument(
        "--judge-replies", type=Path, help="a judge's replies, where it is a judged benchmark"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--per-question", action="store_true")


def _run_score(arguments: Arguments) -> None:
    from videollava.evaluate.benchmarks.reading import watch
    from videollava.evaluate.score import as_json, as_text, score

    with watch() as used:
        figures = score(
            arguments.benchmark,
            arguments.gold,
            arguments.answers,
            arguments.judge_replies,
            arguments.per_question,
        )
    _say_unused(arguments.gold, used, f"gold of {arguments.benchmark}")
    print(as_json(figures) if arguments.json else as_text(figures))


def _say_unused(given: Iterable[Path], used: Collection[Path], what: str) -> None:
    files = {file.resolve() for file in used}
    for path in given:
        place = path.resolve()
        if not any(file == place or place in file.parents for file in files):
            print(f"note: {path}: nothing in it is {what}; not used", file=sys.stderr)


def _add_submission(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark")
    parser.add_argument(
        "--questions",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        help="the benchmark's question files; may be repeated",
    )
    parser.add_argument("--answers", type=Path, required=True, help="the predictions")
    parser.add_argument("--out", type=file_to_write, required=True, help="the file to upload")


def _run_submission(arguments: Arguments) -> None:
    from videollava.evaluate.benchmarks.reading import watch
    from videollava.evaluate.score import submission

    with watch() as used:
        counts = submission(arguments.benchmark, arguments.questions, arguments.answers, arguments.out)
    _say_unused(arguments.questions, used, f"questions of {arguments.benchmark}")
    print(f"{arguments.out}: {', '.join(f'{count} {word}' for word, count in counts.items())}")


def _add_judge(parser: argparse.ArgumentParser) -> None:
    add_params(parser)
    parser.add_argument("benchmark")
    _add_gold(parser)
    parser.add_argument("--answers", type=Path, required=True, help="the predictions")
    parser.add_argument(
        "--out",
        type=folder_to_write,
        required=True,
        help="a folder for the replies and what was judged so far",
    )


def _run_judge(arguments: Arguments) -> None:
    from videollava.evaluate.benchmarks.reading import watch
    from videollava.evaluate.judge import judge_answers, limits_of, open_judge
    from videollava.params import load_params

    choices = load_params(arguments.params, arguments.set).evaluate.judge
    judge = open_judge(choices)
    if judge is None:
        raise InputError("evaluate.judge.kind is none: set it to endpoint, local or replay")
    files = (arguments.benchmark, arguments.gold, arguments.answers)
    with watch() as used:
        replies = judge_answers(*files, judge, arguments.out, limits_of(choices), print, runs=choices.runs)
    _say_unused(arguments.gold, used, f"gold of {arguments.benchmark}")
    print(replies)


def _add_normalise(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rule", choices=("vqa", "m4c"), required=True)


def _run_normalise(arguments: Arguments) -> None:
    from videollava.evaluate.normalise import normalise

    for line in normalise(arguments.rule, sys.stdin):
        print(line)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, help="an evaluation folder")
    parser.add_argument("b", type=Path, help="another one")


def _run_compare(arguments: Arguments) -> None:
    from videollava.evaluate.compare import compare, format_comparison

    print(format_comparison(compare(arguments.a, arguments.b)))


def _add_benchmarks(parser: argparse.ArgumentParser) -> None:
    add_params(parser)
    parser.add_argument(
        "names", nargs="*", metavar="BENCHMARK", help="read their files through; default: list all"
    )
    parser.add_argument("--json", action="store_true")


def _run_benchmarks(arguments: Arguments) -> int:
    import json
    from dataclasses import asdict

    from videollava.evaluate.at_hand import look_at
    from videollava.params import load_params

    params = load_params(arguments.params, arguments.set)
    found = look_at(params, Path.cwd(), arguments.names)
    if arguments.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    for one in () if arguments.json else found:
        mark = "*" if one.asked else " "
        print(f"{mark} {one.id:24} {'here' if one.here else 'lacks':6} {one.title}  {one.where}".rstrip())
        if one.lacks:
            print(f"    {one.lacks}")
            for place in one.places or (() if one.where or not one.lacks.startswith("put") else (PAGE,)):
                print(f"    from {place}")
    return 1 if any(not one.here and (one.asked or arguments.names) for one in found) else 0


SCORING = {
    "benchmarks": Command(
        "which benchmarks' files are here, and where the others are", _add_benchmarks, _run_benchmarks
    ),
    "score": Command(
        "figures of a predictions file, as the official code gives them", _add_score, _run_score
    ),
    "judge": Command(
        "have open answers graded, as evaluate.judge says; then `score`", _add_judge, _run_judge
    ),
    "submission": Command(
        "the file that a benchmark's official server takes", _add_submission, _run_submission
    ),
    "normalise": Command("apply an official answer normaliser to lines", _add_normalise, _run_normalise),
    "compare": Command("two evaluations, question by question", _add_compare, _run_compare),
}
