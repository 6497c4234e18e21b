"""Code changes that a person said change no result: accepted.jsonl at the root, one line each, to be kept in git.

An acceptance makes dvc.lock name the changed code for outputs that the code before it made. It holds as long as those
outputs are the stage's: what is made again needs none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.tracking.lineage import lock_entry, locked_input_key, outs_of

__all__ = ["ACCEPTED", "Accepted", "note", "origin_key", "read_accepted", "standing"]

ACCEPTED = "accepted.jsonl"


@dataclass(frozen=True)
class Accepted:
    """stage: whose code changed. because, who, when: the reason, the person, the time (UTC). files: the code.

    was, inputs: the input keys of before and after. outs: the outputs it is about, hashes by path.
    """

    stage: str
    because: str
    who: str
    when: str
    files: tuple[str, ...]
    was: str
    inputs: str
    outs: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """As it stands in a saved retraining (made.json) and in the lineage."""
        return {
            "stage": self.stage,
            "because": self.because,
            "who": self.who,
            "when": self.when,
            "files": list(self.files),
        }


def read_accepted(root: Path) -> list[Accepted]:
    """All that was ever accepted, the oldest first. InputError where a line is none of ours."""
    file = root / ACCEPTED
    found = []
    for number, line in enumerate(file.read_text().splitlines() if file.is_file() else (), 1):
        try:
            held = json.loads(line)
            found.append(Accepted(**{**held, "files": tuple(held["files"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{file}: line {number}: no acceptance ({error}); take it back from git"
            ) from error
    return found


def standing(root: Path, stage: str = "") -> list[Accepted]:
    """Those that hold for the outputs that dvc.lock names now, of one stage or of all."""
    found = {}
    for one in read_accepted(root):
        if stage in ("", one.stage) and outs_of(lock_entry(root, one.stage)) == one.outs:
            found[one.stage, one.inputs] = one  # of one that was written down twice, the last
    return list(found.values())


def origin_key(root: Path, stage: str) -> str:
    """The input key of the run that made the stage's outputs: dvc.lock's, but for code that was accepted since."""
    key = locked_input_key(root, stage)
    before = {one.inputs: one.was for one in standing(root, stage)} if key else {}
    while key in before:
        key = before.pop(key)
    return key


def note(root: Path, accepted: Accepted) -> None:
    """Write one down."""
    with (root / ACCEPTED).open("a") as stream:
        stream.write(json.dumps(asdict(accepted)) + "\n")
