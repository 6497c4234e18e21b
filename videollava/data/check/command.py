"""The command `videollava check`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from videollava.command import Arguments, Command, add_params, folder_to_write
from videollava.errors import InputError

__all__ = ["CHECK"]

FORMATS = ("auto", "llava", "valley", "video-chatgpt", "messages", "jsonl", "webdataset", "easy-vqa", "clips")
TOKENIZER = Path("data/index/tokenizer")


def _add(parser: argparse.ArgumentParser) -> None:
    add_params(parser)
    parser.add_argument(
        "target",
        metavar="FILE|FOLDER|SOURCE",
        help="annotations, a tar of pairs, a folder of both, or a source of params.yaml",
    )
    parser.add_argument("--media", type=Path, metavar="FOLDER", help="where the media lie, also in archives")
    parser.add_argument("--format", choices=FORMATS, default="", help="default: auto, or the source's")
    parser.add_argument(
        "--use", choices=("align", "pretrain", "finetune"), default="", help="default: finetune"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help=f"counts the tokens (default: {TOKENIZER}, else they are estimated)",
    )
    parser.add_argument(
        "--out",
        type=folder_to_write,
        metavar="FOLDER",
        help="for problems.jsonl and lengths.svg (default: runs/check)",
    )
    parser.add_argument("--json", action="store_true")


def _run(arguments: Arguments) -> int:
    import json

    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from videollava.data.check.picture import bars_of, draw
    from videollava.data.check.run import Asked, check
    from videollava.data.check.table import show
    from videollava.machine import load_machine
    from videollava.params import Params, load_params

    given = arguments.params.is_file() or arguments.set or "params" in getattr(arguments, "given", ())
    params = load_params(arguments.params, arguments.set) if given else Params()
    tokenizer = arguments.tokenizer or (TOKENIZER if TOKENIZER.is_dir() else None)
    if arguments.tokenizer and not arguments.tokenizer.is_dir():
        raise InputError(
            f"--tokenizer {arguments.tokenizer}: no folder; leave it out to have lengths estimated"
        )
    out = arguments.out or Path("runs/check")
    listed, picture = out / "problems.jsonl", out / "lengths.svg"
    workers = load_machine(Path.cwd()).work("shards").loaders
    asked = Asked(
        arguments.target, arguments.media, arguments.format, arguments.use, tokenizer, listed, workers
    )
    columns = (TextColumn("{task.completed:,.0f} records"), TimeElapsedColumn())
    terminal = Console(stderr=True)
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        checked = check(
            asked, params, Path.cwd(), partial(progress.advance, progress.add_task("", total=None))
        )
    counted = (
        f"counted with {tokenizer}"
        if tokenizer
        else "estimated at 4 characters a token: no tokenizer is here"
    )
    bound = checked.bound
    bounds = {} if bound is None else {"max_tokens": bound.max_tokens, "positions": bound.positions}
    title = f"{checked.name}: tokens a record, {'counted' if tokenizer else 'estimated'}"
    picture.write_text(draw(bars_of(checked.findings.lengths), title, bounds), encoding="utf-8")
    if arguments.json:
        told = {
            "passed": checked.passed,
            "stopped": checked.stopped,
            "media_searched": checked.searched,
            "lengths_are": counted,
        }
        files = {"all_problems": str(listed), "picture": str(picture)}
        print(json.dumps({"name": checked.name, **told, **files, **checked.findings.as_json()}, indent=1))
    else:
        written = [f"every problem: {listed}", f"a picture of the lengths: {picture}"]
        show(checked, counted, written, Console())
    return 0 if checked.passed else 1


CHECK = Command("what the pipeline would make of annotations, before anything runs", _add, _run)
