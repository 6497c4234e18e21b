"""The commands `videollava data`, on sources and their index, and `videollava remote`: where both are shared.

Each imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from videollava.command import Arguments, Command, add_params
from videollava.errors import InputError

__all__ = ["DATA", "REMOTE"]


def _nothing(parser: argparse.ArgumentParser) -> None:
    pass


def _run_join(arguments: Arguments) -> None:
    from videollava.data.prepare.listed import benchmark_sources, join_params
    from videollava.params import load_params

    params = load_params()
    told = "now reads" if join_params(Path.cwd(), params) else "reads"
    print(f"dvc.yaml: stage index {told} the shards of {', '.join(params.sources) or 'no source'}")
    if named := benchmark_sources(params):
        print(f"dvc.yaml: stage evaluate {told} what was fetched of {', '.join(named)}")


def _add_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of letters, digits, _ and -")
    parser.add_argument(
        "target",
        metavar="URL|FOLDER",
        nargs="+",
        help="s3://, https://, hf://datasets/ORG/NAME, a file or a folder",
    )
    parser.add_argument("--format", default="", help="of its records; default: as the first of them look")
    parser.add_argument("--use", choices=("align", "pretrain", "finetune"), default="finetune")
    parser.add_argument("--annotations", default="", help="their file, or its address, where it is not found")
    parser.add_argument("--licence", default="", help="under which it may be used, for the data card")
    parser.add_argument("--files", action="append", default=[], metavar="PATTERN", help="of a hub repository")
    parser.add_argument("--endpoint", default="", metavar="URL", help="of a store of S3 other than AWS")
    parser.add_argument("--region", default="")
    parser.add_argument("--profile", default="", help="of your AWS configuration")
    parser.add_argument("--unsigned", action="store_true", help="ask the store without credentials")


def _run_add(arguments: Arguments) -> None:
    from videollava.data.adding.add import add_source, entry_of

    names = (
        *("format", "use", "annotations", "files", "licence"),
        *("endpoint", "region", "profile", "unsigned"),
    )
    given = {name: getattr(arguments, name) for name in names}
    entry = entry_of(arguments.target[0], Path.cwd(), **given)
    if len(arguments.target) > 1:
        if entry["kind"] != "archive":
            raise InputError(
                f"{arguments.target[0]}: one folder or repository a source; several only of addresses"
            )
        entry["urls"] = [entry_of(one, Path.cwd())["urls"][0] for one in arguments.target]
    added = add_source(Path.cwd(), arguments.name, entry)
    for line in added.sight.lines():
        print(f"{arguments.name}: {line}")
    print(
        f"{arguments.name}: in params.yaml, dvc.yaml and locks/{arguments.name}.json (commit all three); then "
        f"`videollava fetch {arguments.name}`, `videollava check {arguments.name}` and `make retrain`"
    )


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of a source")


def _run_remove(arguments: Arguments) -> None:
    from videollava.data.adding.add import remove_source

    remove_source(Path.cwd(), arguments.name)
    print(
        f"{arguments.name}: taken out of params.yaml, dvc.yaml and locks/; what was fetched stays in "
        f"data/raw/{arguments.name} and data/shards/{arguments.name}"
    )


def _add_lock(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.add_argument(
        "--forget-sums", action="store_true", help="take its files as they are, whatever they were"
    )


def _run_lock(arguments: Arguments) -> None:
    from videollava.data.adding.add import lock_again

    found = lock_again(Path.cwd(), arguments.name, forget=arguments.forget_sums)
    told = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ..' if len(names) > 3 else ''})"
        for what, names in (("new", found.added), ("changed", found.changed), ("gone", found.removed))
        if names
    ]
    lacking = sum(not file.sha256 for file in found.lock.files)
    sums = f"; {lacking} sums are noted by `videollava fetch {arguments.name}`" if lacking else ""
    print(
        f"locks/{arguments.name}.json: {len(found.lock.files)} files, {', '.join(told) or 'as before'}{sums}"
    )


def _add_card(parser: argparse.ArgumentParser) -> None:
    add_params(parser)
    parser.add_argument("--json", action="store_true")


def _run_card(arguments: Arguments) -> None:
    import json

    from videollava.data.versions.card import describe_card, read_card
    from videollava.params import load_params

    card = read_card(Path.cwd(), load_params(arguments.params, arguments.set))
    print(json.dumps(card, indent=1, ensure_ascii=False) if arguments.json else describe_card(card))


ACTIONS = {
    "add": Command(
        "look at a source and write it into params.yaml, its lock and dvc.yaml", _add_add, _run_add
    ),
    "remove": Command("take a source out of them", _add_name, _run_remove),
    "lock": Command("look at a source again and lock what is there now", _add_lock, _run_lock),
    "card": Command(
        "what the index holds: counts, licences, lengths, what was left out", _add_card, _run_card
    ),
    "join": Command("have dvc.yaml's stage index read the sources of params.yaml", _nothing, _run_join),
}


def _add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, action in ACTIONS.items():
        action.add(actions.add_parser(name, help=action.about, description=action.about))


def _run(arguments: Arguments) -> int | None:
    return ACTIONS[arguments.action].run(arguments)


DATA = Command("sources and what became of them", _add, _run)


def _add_remote(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="set")
    told = "share data and models there, once it can be written to"
    setting = actions.add_parser("set", help=told, description=told)
    setting.add_argument("url", metavar="URL", help="s3://bucket/prefix, or a folder")
    setting.add_argument("--endpoint", default="", metavar="URL", help="of a server other than AWS")
    setting.add_argument("--profile", default="", help="of your AWS configuration")
    setting.add_argument("--region", default="")


def _run_remote(arguments: Arguments) -> int:
    from videollava.data.versions.remote import KEYS, read_remote, set_remote

    if arguments.action == "set":
        found = set_remote(Path.cwd(), arguments.url, arguments.endpoint, arguments.profile, arguments.region)
        print(f"{found.describe()}: can be written to; commit .dvc/config (git commit .dvc/config)")
        if found.url.startswith("s3://"):
            print(KEYS.format(name=found.name))
        return 0
    remote = read_remote(Path.cwd())
    if remote is None:
        print("no remote: data and models stay on this machine; `videollava remote set s3://bucket/prefix`")
        return 1
    print(remote.describe())
    return 0


REMOTE = Command("where data and models are shared, or set it", _add_remote, _run_remote)
