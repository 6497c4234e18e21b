"""Which benchmarks' files are here, what lacks, and how to get it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videollava.data.prepare.tables import split_names
from videollava.errors import InputError
from videollava.evaluate import benchmarks
from videollava.evaluate.benchmarks.origins import origin_of
from videollava.evaluate.questions import read_questions
from videollava.params import Params

__all__ = ["AtHand", "look_at"]

OWN = "its questions are the split test-{0} of data/index: run `videollava index`, with a source that has a test"


@dataclass(frozen=True)
class AtHand:
    """A benchmark: whether params.yaml asks for it (`asked`) and its questions are `here`, where, what `lacks`, and
    `places` where its official files are.
    """

    id: str
    title: str
    asked: bool
    here: bool
    where: str
    lacks: str
    places: tuple[str, ...]


def look_at(params: Params, workspace: Path, names: Sequence[str] = ()) -> list[AtHand]:
    """Every benchmark, by what lies where; those of `names` with their files read through.

    InputError for a name that is none's.
    """
    own = [name for name in _own(params, workspace) if name not in benchmarks.names()]
    chosen = [name if name in own else benchmarks.get(name).id for name in names]
    chosen = chosen or [*benchmarks.names(), *own]
    return [_look(name, params, workspace, thorough=bool(names)) for name in chosen]


def _own(params: Params, workspace: Path) -> list[str]:
    """Tests of one's own data: those that the index has, and sources that evaluate.benchmarks names."""
    splits = split_names(workspace / "data/index") if (workspace / "data/index").is_dir() else []
    here = [split.removeprefix("test-") for split in splits if split.startswith("test-")]
    asked = [name for name in params.evaluate.benchmarks if name in params.sources]
    return list(dict.fromkeys([*here, *asked]))


def _look(name: str, params: Params, workspace: Path, thorough: bool) -> AtHand:
    origin = origin_of(name)
    where, lacks = _place(name, params, workspace)
    if thorough and not lacks:
        try:
            read_questions(
                name, params.evaluate, workspace, workspace / f"checkpoints/benchmarks/media-{name}"
            )
        except InputError as error:
            lacks = str(error)
    title = benchmarks.get(name).title if name in benchmarks.names() else f"the test of {name}"
    asked = name in params.evaluate.benchmarks
    return AtHand(name, title, asked, not lacks, where, lacks, origin.places if origin else ())


def _place(name: str, params: Params, workspace: Path) -> tuple[str, str]:
    """Where it is to be, and why it cannot be read from there."""
    folder = params.evaluate.folders.get(name)
    split = f"data/index/splits/test-{name}.arrow"
    if folder is None:
        if (workspace / split).is_file():
            return split, ""
        origin = origin_of(name)
        if origin is None:
            return "", OWN.format(name)
        return "", f"put {origin.holds} into a folder, and name it: evaluate.folders.{name}"
    if (workspace / folder).is_dir():
        return folder, ""
    parts = Path(folder).parts
    if parts[:2] == ("data", "raw") and len(parts) > 2:
        known = parts[2] in params.sources
        remedy = f"`videollava fetch {parts[2]}`" if known else f"`videollava data add {parts[2]} ...`"
        return folder, f"not fetched: run {remedy}"
    return folder, "no such folder"
