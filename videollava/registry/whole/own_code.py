"""A command on a registered version, run by that version's own code where the code here is another."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videollava.errors import InputError
from videollava.params import Tracking, load_params
from videollava.registry.versions import version_code
from videollava.registry.whole.apart import environment_of, is_here, unpack, user_cache, wheel_digest
from videollava.registry.whole.requirements import differing

__all__ = ["OwnCode", "find_code", "run_by_own_code"]

SHOWN = 6  # packages named in a note


@dataclass(frozen=True)
class OwnCode:
    """folder: to import a version's code from; None where this process has the same, or the version carries none.

    notes: what a person should know before trusting the answers.
    """

    folder: Path | None = None
    notes: tuple[str, ...] = ()


def find_code(reference: str, workspace: Path, tracking: Tracking | None = None) -> OwnCode:
    """The code of `models:/NAME/3` or `models:/NAME@champion`, fetched where it is not the code here.

    InputError where there is no such version, or its code cannot be had.
    """
    if tracking is None:
        file = workspace / "params.yaml"
        tracking = load_params(file).tracking if file.is_file() else Tracking()
    wheel, pins, bring = version_code(workspace, tracking, reference)
    if not wheel:
        return OwnCode(notes=(f"{reference} carries no code of its own (an earlier release made it)",))
    notes = _notes(reference, differing(pins))
    if is_here(wheel_digest(wheel)):
        return OwnCode(notes=notes)
    cache = user_cache("code", workspace)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=cache) as aside:
        try:
            return OwnCode(unpack(bring(Path(aside)), cache), notes)
        except ValueError as error:
            raise InputError(f"{reference}: {error}; register it again") from error


def run_by_own_code(reference: str, words: Sequence[str], workspace: Path) -> int | None:
    """Run `videollava WORDS` by the code of a registered version, in a process of its own; its exit status.

    None where the code here is the version's (or it has none): the caller goes on by itself. Notes go to stderr.
    """
    own = find_code(reference, workspace)
    for note in own.notes:
        print(f"note: {note}", file=sys.stderr)
    if own.folder is None:
        return None
    print(f"note: {reference} answers by its own code ({own.folder.name}), not this one", file=sys.stderr)
    command = [sys.executable, "-m", "videollava", *words]
    status = subprocess.run(command, env=environment_of(own.folder), check=False).returncode
    if status:
        print(
            f"note: its own code ended with status {status}; params.yaml here may say what that release does not know: "
            f"`videollava reproduce {reference}` makes a folder of its commit",
            file=sys.stderr,
        )
    return status


def _notes(reference: str, apart: Sequence[str]) -> tuple[str, ...]:
    if not apart:
        return ()
    more = f", and {len(apart) - SHOWN} more" if len(apart) > SHOWN else ""
    return (f"{reference} was made with other packages: {', '.join(apart[:SHOWN])}{more}",)
