"""What `videollava evaluate` takes besides the pipeline's own model: another one, a checkpoint, benchmarks by name."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from videollava.command import Arguments, folder_to_write, with_model
from videollava.errors import InputError

__all__ = ["add_options", "by_own_code", "check", "checkpoint_as_model", "evaluate_model", "overrides"]

REGISTERED = "models:"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument(
        "--model",
        help="another model than models/videollava: a folder, a hub id, models:/NAME@champion",
    )
    parser.add_argument(
        "--checkpoint",
        help="what a stage under way has learned so far: pretrain or finetune (its newest), or a checkpoint's folder",
    )
    parser.add_argument(
        "--out",
        type=folder_to_write,
        help="where its predictions, report and metrics.json go; default: evaluations/MODEL",
    )
    parser.add_argument(
        "--champion", type=Path, help="with --model or --checkpoint: an evaluation folder to compare with"
    )
    parser.add_argument(
        "--benchmarks",
        help="comma-separated, those of encoders as in metrics.json (msvd.zero_shot, toy_pairs.audio); default: "
        "evaluate.benchmarks and evaluate.zero_shot",
    )
    parser.add_argument(
        "--encoders",
        type=Path,
        metavar="FOLDER",
        help="with --model: its encoders, which evaluate.zero_shot asks; default: those of a registered version",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="with --model models:/..: scores and answers stay with the version, for the gate",
    )


def overrides(arguments: Arguments) -> list[str]:
    """What --benchmarks sets among the parameters. InputError where it holds no names."""
    if not arguments.benchmarks:
        return []
    questions, alone = _parted(_names(arguments))
    return [f"evaluate.benchmarks=[{', '.join(questions)}]", f"evaluate.zero_shot=[{', '.join(alone)}]"]


def _names(arguments: Arguments) -> list[str]:
    names = [name.strip() for name in (arguments.benchmarks or "").split(",") if arguments.benchmarks]
    if not all(re.fullmatch(r"[\w.-]+", name) for name in names):
        raise InputError(
            f"--benchmarks {arguments.benchmarks}: write names with a comma between, such as gqa,pope"
        )
    return names


def _parted(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Benchmarks of questions to a language model, and those of encoders alone."""
    from videollava.embedding.zero_shot.sets import set_of

    own = Path("data/index/splits")  # a source of one's own may have a dot in its name
    of = {name: "" if (own / f"test-{name}.arrow").is_file() else set_of(name) for name in names}
    return [name for name in names if not of[name]], list(dict.fromkeys(filter(None, of.values())))


def check(arguments: Arguments) -> None:
    """Before hours of answers: what goes with --model alone, and a champion to compare with."""
    if arguments.keep and not (arguments.model or "").startswith("models:/"):
        raise InputError("--keep: only a registered version keeps an evaluation: give --model models:/NAME/N")
    if arguments.model and arguments.checkpoint:
        raise InputError("--model and --checkpoint: one of them at a time is evaluated")
    _check_encoders(arguments)
    alone = [f"--{name}" for name in ("out", "champion") if getattr(arguments, name)]
    if alone and not (arguments.model or arguments.checkpoint):
        raise InputError(
            f"{' and '.join(alone)}: only with --model or --checkpoint; of models/videollava the evaluation goes to "
            "evaluation/, and `videollava promote` compares it with the champion's"
        )
    if arguments.champion:
        from videollava.evaluate.results import read_results

        read_results(arguments.champion)


def _check_encoders(arguments: Arguments) -> None:
    if arguments.encoders and not arguments.model:
        raise InputError("--encoders: only with --model; models/videollava has those in models/encoders")
    if arguments.encoders:
        from videollava.embedding.encoders import kinds_in

        try:
            kinds_in(arguments.encoders)
        except InputError as error:
            raise InputError(f"--encoders {error}") from error
        return
    given = arguments.model or arguments.checkpoint
    if given and not given.startswith(REGISTERED) and (alone := _parted(_names(arguments))[1]):
        remedy = (
            "--encoders names the folder of those that belong to it" if arguments.model else "leave it out"
        )
        raise InputError(
            f"--benchmarks {arguments.benchmarks}: {', '.join(alone)} asks encoders by themselves, and {given} is a "
            f"model alone: {remedy}"
        )


@contextmanager
def checkpoint_as_model(arguments: Arguments, params: Any, workspace: Path) -> Iterator[None]:
    """Inside, the command is for the model that --checkpoint stands for, written aside; without one nothing changes."""
    if not arguments.checkpoint:
        yield
        return
    from videollava.evaluate.others import EVALUATIONS
    from videollava.machine import load_machine
    from videollava.train.look_in import find, write_model

    with TemporaryDirectory(dir=_aside(workspace)) as folder:
        seen = find(arguments.checkpoint, workspace, load_machine(workspace), Path(folder))
        name = f"{seen.stage}-step-{seen.whole.step}"
        print(f"evaluate: {name} of {seen.whole.about['steps']} steps ({seen.whole.where})", flush=True)
        model = Path(folder) / name
        write_model(seen, params, workspace / "models", model)
        out = arguments.out or workspace / EVALUATIONS / name
        arguments.words = with_model(arguments, str(model), *([] if arguments.out else [f"--out={out}"]))
        arguments.model, arguments.out = str(model), out
        yield


def _aside(workspace: Path) -> Path:
    folder = workspace / "checkpoints/evaluated"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def evaluate_model(params: Any, machine: Any, workspace: Path, arguments: Arguments) -> None:
    from videollava.evaluate.others import evaluate_other, folder_of
    from videollava.evaluate.stage import WITHOUT

    chosen, given = bool(arguments.benchmarks), arguments.model
    out = arguments.out or workspace / folder_of(given)
    scores = evaluate_other(
        *(params, workspace, given, out, machine, arguments.champion, chosen, arguments.encoders),
        without=getattr(arguments, "without", "") or WITHOUT,
    )
    if arguments.keep and scores:  # on ranks other than 0 there are none
        _keep_scores(workspace, given, scores, out)


def _keep_scores(workspace: Path, given: str, scores: Any, out: Path) -> None:
    from videollava import registry
    from videollava.params import load_params

    params = load_params(workspace / "params.yaml")
    version = registry.find_version(workspace, params.tracking, given)
    for trouble in registry.note_evaluation(workspace, params.tracking, version, scores, out):
        print(f"warning: {trouble}; the scores are in {out}", file=sys.stderr)


def by_own_code(arguments: Arguments) -> int | None:
    """A registered version of other code than this is evaluated by its own; None where that is not so."""
    if not (arguments.model or "").startswith(REGISTERED):
        return None
    from videollava.evaluate.others import folder_of
    from videollava.registry import resolve
    from videollava.registry.whole.own_code import run_by_own_code

    workspace = Path.cwd()
    out = arguments.out or workspace / folder_of(arguments.model)
    more = [] if arguments.out else [f"--out={out}"]
    folder, arguments.without = (None, "") if arguments.encoders else _find_encoders(arguments, workspace)
    if folder:
        arguments.encoders = folder
        more.append(f"--encoders={folder}")
    words = with_model(arguments, str(resolve(arguments.model, workspace)), *more)
    status = run_by_own_code(arguments.model, [word for word in words if word != "--keep"], workspace)
    if status == 0 and arguments.without:  # its own code knows of a folder alone
        print(f"evaluate.zero_shot: left out: {arguments.without}", flush=True)
    if status == 0 and arguments.keep:
        _keep_scores(workspace, arguments.model, json.loads((out / "metrics.json").read_text()), out)
    return status


def _find_encoders(arguments: Arguments, workspace: Path) -> tuple[Path | None, str]:
    """A registered version's encoders, where benchmarks ask any, or why there are none. InputError where those were
    asked for by name, and it has none to be had.
    """
    from videollava.params import load_params
    from videollava.registry import resolve_encoders

    if not load_params(arguments.params, [*arguments.set, *overrides(arguments)]).evaluate.zero_shot:
        return None, ""
    try:
        return resolve_encoders(arguments.model, workspace).absolute(), ""
    except InputError as error:
        if arguments.benchmarks:
            raise
        return None, str(error)
