"""What `videollava shards` does beside the stage: a source's media opened in parts, by as many processes of as many
hosts as there are (--part, --ray), and what storing frames would take (--plan).
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from videollava.command import Arguments
from videollava.errors import InputError

if TYPE_CHECKING:
    from videollava.machine import Machine
    from videollava.params import Params

__all__ = ["add_parts", "run_parts"]


def add_parts(parser: argparse.ArgumentParser) -> None:
    """--part I/N, and --ray N: the same parts, spread by Ray; --plan: write nothing."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--part", metavar="I/N", help="only open the I-th of N parts of the media, for a later run"
    )
    how.add_argument(
        "--ray", metavar="N", type=int, help="open them in N parts on the Ray cluster, then cut here"
    )
    how.add_argument(
        "--plan",
        action="store_true",
        help="write nothing: say what clips take as frames (shards.frames), and how fast both are read",
    )


def run_parts(arguments: Arguments, params: Params, workspace: Path, machine: Machine) -> bool:
    """Do what --part, --ray or --plan asks for; whether nothing is left to do."""
    from videollava.data.prepare.shards import probe_part, weigh_frames

    if arguments.plan:
        weigh_frames(params, workspace, machine, arguments.source)
        return True
    if not arguments.part and not arguments.ray:
        return False
    if not arguments.source:
        raise InputError("--part and --ray: name the source")
    if arguments.part:
        number, parts = _read_part(arguments.part)
        count = probe_part(params, workspace, machine, arguments.source, (number, parts))
        print(f"{arguments.source}: {count:,} media opened in part {number} of {parts}")
        return True
    _spread(arguments.ray, params, workspace, machine, arguments.source)
    return False


def _read_part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= parts:
        raise InputError(f"--part {text}: write I/N, such as 1/8 to 8/8")
    return number, parts


def _spread(parts: int, params: Params, workspace: Path, machine: Machine, source: str) -> None:
    """Every node sees the folder; RAY_ADDRESS names the cluster, without one Ray starts on this host."""
    from videollava.data.prepare.shards import probe_part

    if parts < 1:
        raise InputError(f"--ray {parts}: write in how many parts, at least 1")
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray: Ray is not installed; `pip install 'videollava[ray]'`") from error
    # This very code, wherever it was imported from: a relative PYTHONPATH means another folder to Ray's processes.
    code = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}}
    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False, runtime_env=code)
    try:
        task = ray.remote(probe_part)
        folder = workspace.absolute()
        waiting = [
            task.remote(params, folder, machine, source, (part, parts)) for part in range(1, parts + 1)
        ]
        print(f"{source}: {sum(ray.get(waiting)):,} media opened in {parts} parts by Ray")
    finally:
        ray.shutdown()
