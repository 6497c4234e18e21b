"""The command line. One command a stage, and what people do with models: each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from videollava import evaluating
from videollava.command import Arguments, Command, Parser, add_params, folder_to_write, with_model
from videollava.data.check.command import CHECK
from videollava.data_commands import DATA, MIRROR, REMOTE
from videollava.embedding_commands import EMBEDDING
from videollava.ends import Ended
from videollava.environment import (
    ask_loopback_directly,
    end_with_supervisor,
    keep_freed_memory,
    settle_torch,
)
from videollava.errors import InputError
from videollava.evaluate.commands import SCORING
from videollava.finishing import FINISH, TRAINING
from videollava.parts import add_parts, run_parts
from videollava.registry_commands import REGISTRY
from videollava.settings import SETTINGS
from videollava.views import views

__all__ = ["main"]

USAGE_ERROR = 2
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, or of what one user may have there
EACH = ("fetch", "shards")  # stages of one source each

STAGES = {
    "fetch": ("videollava.data.acquire.fetch", "a source -> verified archives in data/raw"),
    "shards": ("videollava.data.prepare.shards", "a source's archives -> tar shards in data/shards"),
    "index": ("videollava.data.prepare.index", "all shards -> splits with token lengths in data/index"),
    "bases": ("videollava.train.bases", "the language model to start from -> models/bases"),
    "align": ("videollava.train.align", "contrastive alignment of the encoders -> models/encoders"),
    "pretrain": (
        "videollava.train.pretrain",
        "stage 1: the projector learns on captions -> models/projector",
    ),
    "finetune": ("videollava.train.finetune", "stage 2: projector and language model -> models/videollava"),
    "evaluate": ("videollava.evaluate.stage", "predictions, scores, report -> evaluation, metrics.json"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on stderr and status 2."""
    ask_loopback_directly()
    end_with_supervisor()
    parser = Parser(prog="videollava", description="Train, evaluate, register and use Video-LLaVA.")
    # The deepspeed launcher puts it before the command; torchrun's LOCAL_RANK says the same, and is what is read.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words = sys.argv[1:] if argv is None else list(argv)
    known = {**COMMANDS, **views(words)}
    for name, command in known.items():
        command.add(commands.add_parser(name, help=command.about, description=command.about))
    arguments = parser.parse_args(argv)
    arguments.words = words  # for ranks, which run the same
    try:
        _take_rank(arguments.local_rank)
        return known[arguments.command].run(arguments) or 0
    except InputError as error:
        print(f"videollava {arguments.command}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except Ended as ended:
        print(f"videollava {arguments.command}: {ended}", file=sys.stderr)
        return ended.status
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(
            f"videollava {arguments.command}: {error.filename or 'a file'} can't be written: {error.strerror}; make "
            "room and run it again: what is done before stays",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _stage(name: str) -> Command:
    module, about = STAGES[name]

    def add(parser: argparse.ArgumentParser) -> None:
        add_params(parser)
        if name in EACH:
            parser.add_argument("source", nargs="?", default="", help="its name in params.yaml; default: all")
        if name == "shards":
            add_parts(parser)
        if name in TRAINING:
            parser.add_argument(
                "--go-on-from",
                metavar="CHECKPOINT",
                help="a folder step-NNNNNNNN of a run of other code or another pack size, to begin from",
            )
        if name == "evaluate":
            evaluating.add_options(parser)

    def run(arguments: Arguments) -> int:
        settle_torch()
        from videollava.params import load_params

        overrides = list(arguments.set)
        if name == "evaluate":
            overrides += evaluating.overrides(arguments)
            evaluating.check(arguments)
            if (status := evaluating.by_own_code(arguments)) is not None:
                return status
        params = load_params(arguments.params, overrides)
        if getattr(arguments, "go_on_from", None):
            from videollava.train.going_on import settle_other

            settle_other(arguments.go_on_from, name)
        if name != "evaluate":
            return _compute(name, module, arguments, params)
        with evaluating.checkpoint_as_model(arguments, params, Path.cwd()):
            return _compute(name, module, arguments, params)

    return Command(about, add, run)


def _compute(name: str, module: str, arguments: Arguments, params: Any) -> int:
    """Run a stage in this process, or on the ranks that machine.yaml wants for it."""
    from importlib import import_module

    from videollava.alarm_notices import alarms_told
    from videollava.machine import load_machine
    from videollava.tracking import track
    from videollava.train.launch.rank import as_rank
    from videollava.train.launch.setup import check_host
    from videollava.train.launch.start import launch, wants_ranks

    workspace = Path.cwd()
    machine = load_machine(workspace)
    work = machine.work(name)
    if name in TRAINING[1:] or (name == "evaluate" and not arguments.model):
        from videollava.train.saving.spent import clear_sealed

        clear_sealed(name, params, workspace, machine)
    if wants_ranks(work):
        with alarms_told(name, params.tracking.model, workspace):
            return launch(name, arguments.words, machine, params, workspace)
    if not work.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # one that the machine file does not want is not seen
    if name in (*TRAINING, "evaluate"):
        keep_freed_memory()
    _check_ranks(name)
    with as_rank():
        check_host(name, work, params, workspace)
        if name == "shards" and run_parts(arguments, params, workspace, machine):
            return 0
        if getattr(arguments, "model", None):
            evaluating.evaluate_model(params, machine, workspace, arguments)
            return 0
        for stage, chosen in _parts(name, params, getattr(arguments, "source", "")):
            with (
                _heeding(stage, workspace, work),
                alarms_told(stage, params.tracking.model, workspace),
                track(stage, params, workspace, machine),
            ):
                import_module(module).run(params, workspace, machine, *chosen)
                _plot(name, workspace)
    return 0


def _parts(name: str, params: Any, source: str) -> list[tuple[str, tuple[str, ...]]]:
    """The stages of a command, as dvc.yaml names them, each with what of the data it is for."""
    if name not in EACH:
        return [(name, ())]
    if source and source not in params.sources:
        raise InputError(
            f"params.yaml: sources: no {source!r}; there are: {', '.join(params.sources) or 'none'}"
        )
    names = [source] if source else list(params.sources) or [""]
    return [(f"{name}@{one}" if one else name, (one,)) for one in names]


def _take_rank(local_rank: int | None) -> None:
    """What the launcher says by an option, where it does not by the environment."""
    said = os.environ.get("LOCAL_RANK")
    if local_rank is not None and said not in (None, str(local_rank)):
        raise InputError(f"--local_rank {local_rank}, but LOCAL_RANK is {said}: start it by one launcher")
    if local_rank is not None:
        os.environ["LOCAL_RANK"] = str(local_rank)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        if not os.environ.get(name, "0").isdigit():
            raise InputError(f"{name} is {os.environ[name]!r} in the environment, not a number: unset it")


def _check_ranks(name: str) -> None:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1 and name in ("fetch", "shards", "index", "bases"):
        raise InputError(f"{name} is one process; torchrun started {ranks}: run `videollava {name}`")


def _heeding(stage: str, workspace: Path, work: Any) -> AbstractContextManager[None]:
    """A stage that trains makes a last checkpoint where it is told to end; others end as any program does."""
    from videollava.train.ending import heeding

    return heeding(stage, workspace, work.ending_seconds) if stage in TRAINING else nullcontext()


def _plot(name: str, workspace: Path) -> None:
    if os.environ.get("RANK", "0") == "0" and name in TRAINING:
        from videollava.tracking import write_curves

        write_curves(workspace / "plots", name)


def _run_track(arguments: Arguments) -> int:
    from videollava.params import load_params
    from videollava.tracking.forward import replay

    done = replay(Path.cwd(), load_params().tracking)
    skipped = f", {done.skipped} entries that it never takes" if done.skipped else ""
    print(f"{done.events} events sent to MLflow, {done.pending} bytes wait{skipped}")
    if told := done.in_words():
        print(told, file=sys.stderr)
    return 1 if told else 0


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a folder of any known format, or a hub id")
    parser.add_argument("target", type=folder_to_write)
    parser.add_argument("--to", choices=("ours", "original", "transformers"), default="ours")
    _add_conversion(parser)


def _add_conversion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", help="the model under an adapter or a projector alone, where it is not found"
    )
    parser.add_argument(
        "--no-check",
        dest="check",
        action="store_false",
        default=None,
        help="compare no logits before and after",
    )


def _run_convert(arguments: Arguments) -> None:
    from videollava.model.convert import convert

    done = convert(arguments.source, arguments.target, arguments.to, arguments.base, arguments.check)
    _say_converted(done)


def _say_converted(done: Any) -> None:
    compared = "logits not compared" if done.difference is None else f"logits differ by {done.difference:.2g}"
    print(f"{done.folder}: {compared}{'; ' + done.note if done.note else ''}")


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="a LoRA folder: of ours, transformers' or the original's")
    parser.add_argument("target", type=folder_to_write)
    _add_conversion(parser)


def _run_merge(arguments: Arguments) -> None:
    from videollava.model.convert import merge

    _say_converted(merge(arguments.adapter, arguments.target, arguments.base, arguments.check))


def _add_ask(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question")
    parser.add_argument("--image", action="append", default=[], help="a path, or an http(s) or data address")
    parser.add_argument("--video", action="append", default=[], help="likewise")
    parser.add_argument(
        "--model", default="models:/videollava@champion", help="a registered version or a folder"
    )
    parser.add_argument(
        "--quantize", choices=("4bit", "8bit"), help="hold the language model in so many bits"
    )


def _run_ask(arguments: Arguments) -> int:
    import warnings

    model = arguments.model
    if model.startswith("models:"):
        from videollava.registry import resolve
        from videollava.registry.whole.own_code import run_by_own_code

        model = str(resolve(model))
        status = run_by_own_code(arguments.model, with_model(arguments, model), Path.cwd())
        if status is not None:
            return status
    from videollava.serve.assistant import load

    assistant = load(model, quantize=arguments.quantize)
    with warnings.catch_warnings(record=True) as said:
        print(assistant.answer(arguments.question, images=arguments.image, videos=arguments.video))
    for warning in said:
        print(f"note: {warning.message}", file=sys.stderr)
    return 0


def _add_plan(parser: argparse.ArgumentParser) -> None:
    add_params(parser)
    parser.add_argument("--gpus", type=int, metavar="N", help="default: the machine file's ranks in finetune")
    parser.add_argument(
        "--gpu", default="", metavar="KIND", help="A100, H100, 'RTX 4090', ..; default: this machine's"
    )
    parser.add_argument(
        "--pool",
        default="",
        metavar="NAME",
        help="for the machines behind a pool of pools.yaml, not for this one",
    )
    parser.add_argument(
        "--gpus-per-node", dest="per_node", type=int, metavar="N", help="GPUs of a host (8, or the pool's)"
    )
    parser.add_argument("--link", type=float, metavar="GB/S", help="one way between GPUs of a host")
    parser.add_argument("--network", type=float, metavar="GBIT/S", help="of a host to others")
    parser.add_argument("--mfu", type=float, default=0.4, help="the share of the peak to reckon with (0.4)")
    parser.add_argument("--price", type=float, help="of a GPU's hour; default: the machine file's")
    parser.add_argument(
        "--samples",
        action="append",
        default=[],
        metavar="STAGE=IMAGES,VIDEOS,TEXTS",
        help="numbers of samples where data/index has none",
    )
    parser.add_argument(
        "--scale", action="store_true", help="a table of 1, 2, 4, .. 1,024 GPUs: where more stop paying"
    )
    parser.add_argument(
        "--worth",
        type=float,
        default=0.7,
        metavar="SHARE",
        help="of what a GPU-hour does at best; below it more GPUs do not pay (0.7)",
    )
    parser.add_argument("--json", action="store_true")


def _run_plan(arguments: Arguments) -> None:
    from videollava.train.planning.asked import answer

    answer(arguments, Path.cwd())


def _nothing(parser: argparse.ArgumentParser) -> None:
    pass


COMMANDS = {
    **{name: _stage(name) for name in STAGES},
    "check": CHECK,
    "data": DATA,
    "mirror": MIRROR,
    "remote": REMOTE,
    "plan": Command("how to train on N GPUs, and what it takes, before any is held", _add_plan, _run_plan),
    "finish": FINISH,
    **SETTINGS,
    "ask": Command("ask a model about images and videos", _add_ask, _run_ask),
    **EMBEDDING,
    **REGISTRY,
    "track": Command("send journals that MLflow has not seen yet", _nothing, _run_track),
    **SCORING,
    "convert": Command("a checkpoint into another format", _add_convert, _run_convert),
    "merge": Command("an adapter into its base model", _add_merge, _run_merge),
}


if __name__ == "__main__":
    raise SystemExit(main())
