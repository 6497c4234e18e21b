"""`videollava reproduce VERSION`: a version in a fresh folder, restored or made again, and what came of it in one word.

bit-equal: model and evaluation have the same hashes. equal by paired test: on no benchmark do the answers come further
apart than those of equal models would. different: on some benchmark they do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from flows.history.find import Found, find_commit
from flows.history.plumbing import make_ref
from flows.history.save import SAVED
from flows.places.git import run_git
from flows.places.lock import hold
from flows.stages.graph import stage_order
from flows.stages.stage import run_stage
from flows.storage import has_remote, share
from videollava.errors import InputError
from videollava.evaluate.compare import SIGNIFICANT, compare
from videollava.machine import VARIABLE, find_machine
from videollava.params import load_params
from videollava.registry.manifest import MODEL
from videollava.tracking import FOLLOWED
from videollava.tracking.lineage import folder_md5, read_yaml
from videollava.tracking.packages import differing_packages, in_words
from videollava.tracking.store import tracking_uri

__all__ = ["Verdict", "add_arguments", "reproduce", "run"]

FOLDER = "reproduced"
ANSWERS, REPORT = "evaluation", "report.html"
RESULTS = (MODEL, ANSWERS, "metrics.json")
Word = Literal["bit-equal", "equal by paired test", "different"]
EQUAL: Word = "bit-equal"
TESTED: Word = "equal by paired test"
DIFFERENT: Word = "different"


@dataclass(frozen=True)
class Verdict:
    """word: see above. remade: the stages that ran again. differs: outputs with other hashes. p: by benchmark, how
    often equal models come as far apart. notes: what was otherwise than it was (packages), benchmarks of one side.
    """

    word: Word
    version: str
    commit: str
    folder: str
    remade: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    p: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `videollava reproduce`."""
    parser.add_argument("version", help="7, champion, models:/NAME/7, an experiment's name, or a commit")
    parser.add_argument("--into", type=Path, help=f"a new folder; default: {FOLDER}/NAME-7")
    parser.add_argument(
        "--again", action="store_true", help="run every stage again, instead of restoring what it made"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """Status 0 where it is equal, 1 where it is different."""
    root = Path.cwd()
    found = find_commit(root, load_params(root / "params.yaml").tracking, options.version)
    into = options.into or root / FOLDER / (found.version.replace("/", "-") or found.commit[:12])
    stream = sys.stderr if options.json else sys.stdout
    done = reproduce(
        root, found, into, options.again, lambda text: print(text, end="", file=stream, flush=True)
    )
    print(json.dumps(asdict(done), indent=2) if options.json else _in_words(done))
    return 0 if done.word != DIFFERENT else 1


def reproduce(
    root: Path, found: Found, into: Path, again: bool = False, echo: Callable[[str], None] | None = None
) -> Verdict:
    """Reproduce a saved retraining of the repository `root` in the new folder `into`.

    Data, cache and remotes are those of `root`. InputError where the folder is not free, or what was made is in neither
    cache nor remote (`again` makes it); StageFailed where a stage does.
    """
    into = into.expanduser().resolve()
    _clone(root, into, found.commit)
    share(root, into)
    notes = _otherwise(into)
    with ExitStack() as stack:
        stack.enter_context(hold(into))
        then = _locked(into)
        if not again:
            _restore(into, RESULTS)
            lost = tuple(out for out in RESULTS if _md5_of(into / out) != then.get(out))
            return Verdict(
                DIFFERENT if lost else EQUAL, found.version, found.commit, str(into), (), lost, {}, notes
            )
        answers, lacking = _set_answers_aside(into)
        stages = tuple(stage_order(into))
        for stage in stages:
            run_stage(into, stage, lambda _: None, _environment(root), echo=echo, again=True)
        differs = [out for out in (MODEL, "metrics.json") if _locked(into).get(out) != then.get(out)]
        differs += _changed(answers, into / ANSWERS) if answers else ()
        p, more = _test(answers, into / ANSWERS) if differs and answers else ({}, lacking)
        word: Word = EQUAL if not differs else TESTED if p and min(p.values()) >= SIGNIFICANT else DIFFERENT
        notes = (*notes, *more)
        return Verdict(word, found.version, found.commit, str(into), stages, tuple(differs), p, notes)


def _set_answers_aside(into: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The answers of then, to compare with; None and a note where they are nowhere any more."""
    aside = into / ".prefect" / "answers-of-then"
    try:
        _restore(into, [ANSWERS])
    except InputError:
        return None, (
            "the answers of then are in neither cache nor remote: hashes are compared, and no test is made",
        )
    (into / ANSWERS).rename(aside)
    return aside, ()


def _clone(root: Path, into: Path, commit: str) -> None:
    """A repository of its own at `commit`; nothing is left in `into` where it cannot be had."""
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise InputError(f"{into}: is there already; give a new folder with --into")
    named = run_git(root, "for-each-ref", "--format=%(refname)", f"--points-at={commit}", *SAVED).split()
    if not named:  # known to the registry alone: a name that git can fetch
        named = [f"refs/videollava/reproduced/{commit}"]
        make_ref(root, named[0], commit)
    into.parent.mkdir(parents=True, exist_ok=True)
    there = into.exists()
    into.mkdir(exist_ok=True)
    try:
        run_git(into, "init", "--quiet")
        specs = [f"{ref}:{ref}" for ref in named]
        run_git(into, "fetch", "--quiet", "--no-tags", "--update-shallow", str(root.resolve()), *specs)
        run_git(into, "checkout", "--quiet", "--detach", commit)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        if there:
            into.mkdir()
        raise


def _otherwise(into: Path) -> tuple[str, ...]:
    """What is not as it was: packages."""
    told = in_words(differing_packages(into))
    return (f"packages are not those of then: {told}",) if told else ()


def _restore(into: Path, outs: Sequence[str]) -> None:
    """Have outputs lie in `into`, from the cache or the remote. InputError where neither has them."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    targets = [str(into / out) for out in outs]
    (into / ".prefect").mkdir(exist_ok=True)
    try:
        with Repo(str(into)) as repo:
            try:
                repo.checkout(targets, force=True)
            except DvcException:
                if not has_remote(into):
                    raise
                repo.pull(targets, force=True)
    except (DvcException, OSError) as error:
        raise InputError(
            f"{', '.join(outs)}: neither DVC's cache nor its remote has what the retraining made "
            f"({str(error).partition(chr(10))[0]}); push it where it lies (`dvc push --run-cache`), or make it "
            "once more: --again"
        ) from error


def _locked(workspace: Path) -> dict[str, str]:
    """Hashes of all outputs in dvc.lock, by path."""
    stages = (read_yaml(workspace / "dvc.lock").get("stages") or {}).values()
    return {out["path"]: str(out.get("md5", "")) for entry in stages for out in entry.get("outs") or ()}


def _md5_of(path: Path) -> str:
    if path.is_dir():
        return folder_md5(path)
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else ""


def _changed(then: Path, now: Path) -> list[str]:
    """Files of two evaluations that differ; the report aside, which tells hours."""
    names = {
        file.relative_to(place).as_posix()
        for place in (then, now)
        for file in place.rglob("*")
        if file.is_file()
    }
    differ = (name for name in sorted(names - {REPORT}) if _md5_of(then / name) != _md5_of(now / name))
    return [f"{ANSWERS}/{name}" for name in differ]


def _test(then: Path, now: Path) -> tuple[dict[str, float], tuple[str, ...]]:
    """How often equal models come as far apart, by benchmark, and what could not be compared."""
    try:
        compared = compare(then, now)
    except InputError as error:
        return {}, (f"the answers cannot be compared: {error}",)
    alone = (*compared.only_a, *compared.only_b)
    p = {one.benchmark: one.paired.p for one in compared.contrasts}
    # A benchmark that only one of them has is a difference.
    return {**p, **dict.fromkeys(alone, 0.0)}, tuple(
        f"{name}: only one of the two was asked it" for name in alone
    )


def _environment(root: Path) -> dict[str, str]:
    """Journals stay in the folder: what is reproduced is no retraining of the registry's."""
    machine = find_machine(root).file
    uri = tracking_uri(
        root, load_params(root / "params.yaml").tracking
    )  # a recipe may begin with one of its versions
    return {FOLLOWED: "1", "MLFLOW_TRACKING_URI": uri, **({VARIABLE: str(machine)} if machine else {})}


def _in_words(done: Verdict) -> str:
    of = f"{done.version} ({done.commit[:12]})" if done.version else done.commit[:12]
    how = f"all {len(done.remade)} stages ran again" if done.remade else "restored"
    lines = [f"{of} in {done.folder}: {done.word} ({how})"]
    if done.differs:
        more = f" and {len(done.differs) - 5} more" if len(done.differs) > 5 else ""
        lines.append(f"differ: {', '.join(done.differs[:5])}{more}")
    lines += [f"{name}: p = {p:.3g}" for name, p in done.p.items()]
    return "\n".join([*lines, *(f"note: {note}" for note in done.notes)])
