"""The commands `videollava data`, on sources and their index, and `videollava remote`: where both are shared.

Each imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from videollava.command import Arguments, Command

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


ACTIONS = {
    "join": Command("have dvc.yaml's stage index read the sources of params.yaml", _nothing, _run_join),
}


def _add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, action in ACTIONS.items():
        action.add(actions.add_parser(name, help=action.about, description=action.about))


def _run(arguments: Arguments) -> int | None:
    return ACTIONS[arguments.action].run(arguments)


DATA = Command("sources and what became of them: join", _add, _run)


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
