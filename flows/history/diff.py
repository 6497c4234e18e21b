"""`videollava diff V1 V2`: what differs between two versions: parameters, data, bases, code, and answers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.history.story import Story, tell
from flows.places.git import ask_git
from flows.storage import stores
from videollava.errors import InputError
from videollava.params import load_params
from videollava.tracking.lineage import flatten

if TYPE_CHECKING:
    from videollava.evaluate.compare import Comparison

__all__ = ["Change", "Difference", "add_arguments", "compare_stories", "list_changes", "run"]

LISTED = 10


@dataclass(frozen=True)
class Change:
    """A thing that differs: as it was and as it is, "" where it is not there."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Difference:
    """B against A. code: files that differ, tests and documents aside. answers: None where either's are not to be had;
    `lacks` says why. known: whether both are saved retrainings, so that nothing listed means that nothing differs.
    """

    a: str
    b: str
    params: tuple[Change, ...]
    data: tuple[Change, ...]
    bases: tuple[Change, ...]
    code: tuple[str, ...]
    packages: tuple[Change, ...]
    scores: tuple[Change, ...]
    answers: Comparison | None
    known: bool
    lacks: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `videollava diff`."""
    parser.add_argument(
        "a", metavar="V1", help="a number, an alias, models:/NAME/N, a tag model/NAME/N, a commit"
    )
    parser.add_argument("b", metavar="V2", help="likewise")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--list", type=int, default=LISTED, metavar="N", help="changed answers shown of a benchmark"
    )


def run(options: argparse.Namespace) -> int:
    """Print what differs."""
    from videollava.evaluate.compare import format_comparison

    if options.list < 0:
        raise InputError(f"--list {options.list}: write a number from 0 on")
    root = Path.cwd()
    found = compare_stories(root, tell(root, options.a), tell(root, options.b))
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return 0
    print("\n".join(_lines(found)))
    if found.answers is not None:
        print(f"\n{format_comparison(found.answers, options.list)}")
    return 0


def compare_stories(root: Path, a: Story, b: Story) -> Difference:
    """What differs between two versions, with their answers question by question where both can be had."""
    answers, lacking = _compare_answers(root, a, b)
    lacks = [f"{story.title}: {line}" for story in (a, b) for line in story.lacks]
    return Difference(
        a=a.title,
        b=b.title,
        params=tuple(list_changes(flatten(a.params), flatten(b.params))),
        data=tuple(list_changes({d.name: d.sum[:12] for d in a.data}, {d.name: d.sum[:12] for d in b.data})),
        bases=tuple(list_changes(_bases(a), _bases(b))),
        code=tuple(_code(root, a, b)),
        packages=tuple(list_changes(_packages(a), _packages(b))),
        scores=tuple(list_changes(_figures(a), _figures(b))),
        answers=answers,
        known=bool(a.commit and b.commit),
        lacks=(*lacks, *([lacking] if lacking else [])),
    )


def _compare_answers(root: Path, a: Story, b: Story) -> tuple[Comparison | None, str]:
    from videollava.evaluate.compare import compare
    from videollava.registry.evidence import answers_folder

    tracking = load_params(root / "params.yaml").tracking
    folders = []
    for story in (a, b):
        if story.version is None:
            return (
                None,
                f"{story.title}: its answers are found through the registry, which does not know it here",
            )
        named = tracking.model_copy(update={"model": story.name})
        folder = answers_folder(root, named, story.version, stores(root))
        if folder is None:
            return None, f"{story.title}: its answers are in no store that is reached from here"
        folders.append(folder)
    try:
        found = compare(folders[0], folders[1])
    except InputError as error:
        return None, str(error)
    return replace(found, a=a.title, b=b.title), ""  # by name: folders of a cache say nothing


def _code(root: Path, a: Story, b: Story) -> Iterator[str]:
    """Files that stages read and that differ, dvc.yaml among them."""
    if not (a.commit and b.commit):
        return
    said = (
        ask_git(root, "diff", "--name-status", a.commit, b.commit, "--", "*.py", "dvc.yaml", "compute.lock")
        or ""
    )
    for line in said.splitlines():
        state, _, path = line.partition("\t")
        if not path.startswith(("tests/", "bench/", "docs/")):
            yield f"{ {'A': 'new', 'D': 'gone', 'M': 'edited'}.get(state[0], state) } {path}"


def _bases(story: Story) -> dict[str, str]:
    return {f"{base.stage}: {base.name}": base.revision for base in story.bases}


def _packages(story: Story) -> dict[str, str]:
    """Of the stage that made the weights: what they were computed with."""
    stage = story.made.stages.get("finetune") if story.made is not None else None
    return dict(stage.packages) if stage is not None else {}


def _figures(story: Story) -> dict[str, str]:
    from videollava.gate import primary

    found = {name: primary(values) for name, values in story.scores.items()}
    return {name: f"{figure:.2f}" for name, figure in found.items() if figure is not None}


def list_changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    """What differs between two mappings of names to words."""
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield Change(name, before.get(name, ""), after.get(name, ""))


def _lines(found: Difference) -> Iterator[str]:
    yield f"{found.b} against {found.a}"
    for title, changes in (
        ("parameters", found.params),
        ("data", found.data),
        ("bases", found.bases),
        ("packages", found.packages),
        ("scores", found.scores),
    ):
        yield from _table(title, changes)
    if found.code:
        yield ""
        yield "code"
        yield from (f"  {line}" for line in found.code)
    same = not any((found.params, found.data, found.bases, found.packages, found.code))
    if same and found.known:
        yield "the same parameters, data, bases, packages and code"
    yield from (f"lacks: {line}" for line in found.lacks)


def _table(title: str, changes: Sequence[Change]) -> Iterator[str]:
    if not changes:
        return
    wide = max(len(change.name) for change in changes)
    yield ""
    yield title
    for change in changes:
        yield f"  {change.name:<{wide}}  {change.before or '(none)'} -> {change.after or '(none)'}"
