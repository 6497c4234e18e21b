"""Commands that show, check and write what is set: profiles, the machine, every parameter."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from videollava.command import Arguments, Command, add_params
from videollava.errors import InputError

__all__ = ["SETTINGS"]


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="the preset to write; without it they are listed")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--force", action="store_true", help="over edits that no preset has")


def _run_profile(arguments: Arguments) -> None:
    from videollava.params import load_params, profile_names, profile_text

    if arguments.name is None:
        active = load_params(arguments.params).profile if arguments.params.is_file() else ""
        for name in profile_names():
            print(
                f"{'*' if name == active else ' '} {name:16} {profile_text(name).splitlines()[0].lstrip('# ')}"
            )
        return
    text, file = profile_text(arguments.name), arguments.params
    known = [profile_text(name) for name in profile_names()]
    if file.is_file() and file.read_text() not in known and not arguments.force:
        raise InputError(
            f"{file}: holds edits that profile {arguments.name} would overwrite; keep a copy, or give --force"
        )
    file.write_text(text)
    print(f"{file}: profile {arguments.name}")
    from videollava.data.prepare.listed import join_params

    workspace = file.absolute().parent
    if join_params(workspace, load_params(file)):
        print(f"{workspace / 'dvc.yaml'}: its sources are what index reads")
    _say_lacks(load_params(file), workspace)


def _say_lacks(params: Any, workspace: Path) -> None:
    from videollava.machine import load_machine
    from videollava.needs import find_lacks

    for line in find_lacks(params, load_machine(workspace), workspace):
        print(f"lacks: {line}")


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    add_params(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--schema", action="store_true", help="the JSON schema of params.yaml instead")
    instead.add_argument("--markdown", action="store_true", help="the page of all parameters instead")


def _run_parameters(arguments: Arguments) -> None:
    from videollava.params import load_params, markdown, schema

    if arguments.schema or arguments.markdown:
        if arguments.set or "params" in getattr(arguments, "given", ()):
            raise InputError("--schema and --markdown tell what may be set: leave --set and --params out")
        print(schema() if arguments.schema else markdown(), end="")
        return
    from videollava.tracking.lineage import flatten

    for name, value in flatten(load_params(arguments.params, arguments.set)).items():
        print(f"{name}: {value}")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a preset to write into machine.yaml; `list` names them")
    parser.add_argument("--force", action="store_true", help="over edits that no preset has")


def _run_machine(arguments: Arguments) -> None:
    from videollava.machine import load_machine
    from videollava.machine.page import describe, write_preset

    if arguments.name is None:
        print(describe(load_machine(Path.cwd()), Path.cwd()))
    else:
        print(write_preset(arguments.name, Path.cwd(), arguments.force))


def _add_checkpoints(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--remove", metavar="NAME", help="remove all of this one's, as they are listed")


def _run_checkpoints(arguments: Arguments) -> None:
    from videollava.machine import load_machine
    from videollava.train.saving.listing import describe, find_runs, remove_run

    machine, workspace = load_machine(Path.cwd()), Path.cwd()
    if arguments.remove:
        print(remove_run(arguments.remove, machine, workspace))
    else:
        print(describe(find_runs(machine, workspace)))


SETTINGS = {
    "checkpoints": Command(
        "what unfinished stages keep, wherever that stands", _add_checkpoints, _run_checkpoints
    ),
    "profile": Command("list the presets, or write one into params.yaml", _add_profile, _run_profile),
    "machine": Command("how fast it goes here: what will be used, and why", _add_machine, _run_machine),
    "params": Command("every parameter as it will be used, checked", _add_parameters, _run_parameters),
}
