"""The commands on encoders alone: each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from videollava.command import Arguments, Command, file_to_write, folder_to_write
from videollava.data.modalities import KINDS
from videollava.errors import InputError

__all__ = ["EMBEDDING"]

OURS = "models/encoders"
LISTED = 20  # unreadable files that are told by name; the rest are counted


def _add_model(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[KIND=]MODEL",
        help="an encoder's folder or hub id (LanguageBind, CLIP, OpenCLIP, ours), a folder of several, or a registered "
        f"version (models:/NAME@champion); may be repeated; default: {default}",
    )
    parser.add_argument("--device", help="cpu, cuda, ..; default: a GPU where there is one")


def _add_embed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="media, or folders of them")
    parser.add_argument("--to", type=file_to_write, required=True, metavar="OUT.parquet")
    parser.add_argument(
        "--as", dest="kind", choices=KINDS, help="what all of the files are; default: by their endings"
    )
    parser.add_argument("--add", action="store_true", help="to the vectors that are in the table already")
    parser.add_argument("--batch", type=int, default=32, metavar="N")
    _add_model(parser, OURS)


def _run_embed(arguments: Arguments) -> int:
    from videollava.embedding.files import check_target, embed_files, list_files

    if arguments.batch < 1:
        raise InputError(f"--batch {arguments.batch}: give 1 or more")
    check_target(arguments.to, arguments.add)
    rows = list_files(arguments.files, arguments.kind)
    encoders = _load(arguments.model or [OURS], arguments.device)
    for kind in dict.fromkeys(kind for _, kind in rows):
        encoders.tower(kind)  # what lacks is told before any work
    done = embed_files(encoders, rows, arguments.to, arguments.add, arguments.batch, _progress())
    for path, reason in done.unreadable[:LISTED]:
        print(f"unreadable: {reason if path in reason else f'{path}: {reason}'}", file=sys.stderr)
    if len(done.unreadable) > LISTED:
        print(f"unreadable: {len(done.unreadable) - LISTED} more", file=sys.stderr)
    kept = f", {done.kept} were there" if done.kept else ""
    unreadable = f", {len(done.unreadable)} unreadable" if done.unreadable else ""
    kinds = ", ".join(f"{done.kinds[kind]} {kind}" for kind in KINDS if done.kinds[kind])
    told = f" ({kinds})" if kinds else ""
    print(f"{arguments.to}: {done.written} vectors of {encoders.dim} written{told}{kept}{unreadable}")
    return 1 if done.unreadable else 0


def _progress() -> Any:
    """A line now and then, on stderr."""
    last = [time.monotonic()]

    def tell(done: int, all_of: int) -> None:
        if time.monotonic() - last[0] >= 5:
            last[0] = time.monotonic()
            print(f"{done} of {all_of}", file=sys.stderr, flush=True)

    return tell


def _load(models: list[str], device: str | None) -> Any:
    from videollava.environment import keep_freed_memory, settle_torch

    settle_torch()
    keep_freed_memory()
    if models == [OURS] and not Path(OURS).is_dir():
        raise InputError(f"{OURS}: not there; name encoders by --model, or run `videollava align`")
    import warnings

    from videollava.embedding.encoders import load_encoders

    with warnings.catch_warnings(record=True) as said:
        found = load_encoders(*models, device=device)
    for warning in said:
        print(f"note: {warning.message}", file=sys.stderr)
    return found


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="?", help="what to look for")
    parser.add_argument("--like", type=Path, metavar="FILE", help="a medium to look for, instead of a text")
    parser.add_argument(
        "--as", dest="kind", choices=KINDS, help="what the file of --like is; default: by its ending"
    )
    parser.add_argument("--index", type=Path, required=True, metavar="OUT.parquet")
    parser.add_argument("--top", type=int, default=10, metavar="N")
    parser.add_argument("--only", choices=KINDS, help="rows of that modality alone")
    parser.add_argument("--json", action="store_true")
    _add_model(parser, "those that the table names")


def _run_search(arguments: Arguments) -> int:
    from videollava.embedding.kinds import kind_of
    from videollava.embedding.table import check_made, open_table

    if (arguments.text is None) == (arguments.like is None):
        raise InputError("give a text, or --like FILE")
    if arguments.top < 1:
        raise InputError(f"--top {arguments.top}: ask for 1 or more")
    if arguments.kind and not arguments.like:
        raise InputError("--as says what the file of --like is: give one")
    kind = (arguments.kind or kind_of(arguments.like)) if arguments.like else None
    file, made = open_table(arguments.index)
    file.close()
    if arguments.only and arguments.only not in made.encoders:
        raise InputError(f"{arguments.index}: holds no {arguments.only}, but {', '.join(made.encoders)}")
    encoders = _load(arguments.model or _named(arguments.index, made, kind), arguments.device)
    check_made(arguments.index, made, encoders)
    from videollava.embedding.encoders import embed
    from videollava.embedding.search import search

    query = (
        embed(encoders, texts=[arguments.text])
        if kind is None
        else embed(encoders, files=[arguments.like], kind=kind)
    )
    hits = search(arguments.index, query, arguments.top, arguments.only)[0]
    if arguments.json:
        import json
        from dataclasses import asdict

        print(json.dumps([asdict(hit) for hit in hits], indent=1))
    for hit in () if arguments.json else hits:
        print(f"{hit.score:7.4f}  {hit.kind:7}  {hit.path}")
    return 0


def _named(index: Path, made: Any, kind: str | None) -> list[str]:
    """The encoder to load for a query, by the table's own account: one suffices, all share the text tower."""
    if kind is None:
        kind = next(iter(made.encoders))
    if kind not in made.encoders:
        raise InputError(
            f"{index}: holds no {kind}, so it names no encoder of it: name one by --model (bound to the same text "
            f"tower as {', '.join(made.encoders)})"
        )
    return [f"{kind}={made.encoders[kind]['name']}"]


def _add_zero_shot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME[=FOLDER]",
        help="benchmarks with the folder of their files (default: data/zero_shot/NAME); none: list them",
    )
    parser.add_argument(
        "--to",
        type=folder_to_write,
        default=Path("evaluation/zero_shot"),
        metavar="FOLDER",
        help="default: %(default)s",
    )
    parser.add_argument("--batch", type=int, default=32, metavar="N")
    _add_model(parser, OURS)


def _run_zero_shot(arguments: Arguments) -> int:
    from videollava.embedding.zero_shot.sets import SETS, find_sets

    if not arguments.names:
        for one in SETS.values():
            print(f"{one.name:12} {one.task:14} {one.kind:8} {one.title}: {one.holds}")
        print(
            f"{'toy_pairs':12} {'pairs':14} {'':8} generated clips with senses: the split test-toy_pairs of data/index"
        )
        return 0
    chosen = find_sets(arguments.names)
    encoders = _load(arguments.model or [OURS], arguments.device)
    from videollava.evaluate.zero_shot.run import evaluate_zero_shot

    print(evaluate_zero_shot(encoders, chosen, arguments.to, arguments.batch))
    return 0


EMBEDDING = {
    "embed": Command("media of five modalities as vectors of one space, in a table", _add_embed, _run_embed),
    "search": Command("the nearest rows of such a table to a text or a medium", _add_search, _run_search),
    "zero-shot": Command(
        "retrieval and classification by encoders alone, beside LanguageBind's figures",
        _add_zero_shot,
        _run_zero_shot,
    ),
}
