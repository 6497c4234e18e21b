"""All retrainings: those that git holds as commits, those that MLflow has runs of, each once. No record of our own:
where one of the two is away, the other tells what it knows, and `lacks` says what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from flows.history.diff import list_changes
from flows.history.made import FILE, Made, MadeStage
from flows.history.save import SAVED
from flows.places.git import ask_git, run_git
from videollava import registry
from videollava.errors import InputError
from videollava.gate import primary
from videollava.params import Params, parse_params
from videollava.tracking.lineage import flatten
from videollava.tracking.runs import Run, children_of, list_runs
from videollava.tracking.troubles import is_from_store

__all__ = ["Past", "Retraining", "read_past"]

TESTS = ("tests/", "bench/", "docs/")
NAMED = 3  # files of code that are named
STATES = {"FINISHED": "done", "FAILED": "failed", "KILLED": "ended", "RUNNING": "running"}


@dataclass(frozen=True)
class Retraining:
    """One. when: it began, or was saved; seconds since 1970. state: done, failed, ended, running. changed: against the
    retraining before it, in words. ran: stages that really did. hours: of all ranks in these; cost: by currency.
    gate: passed, refused, or "" where it is not known. promoted: moves of the champion to it, in words.
    reasons: the gate's, or why it failed. edits: of code that no commit holds, in words.
    """

    when: float
    state: str = "done"
    who: str = ""
    commit: str = ""
    ref: str = ""
    baseline: str = ""
    changed: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()
    hours: float | None = None
    cost: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    gate: str = ""
    reasons: tuple[str, ...] = ()
    version: int = 0
    aliases: tuple[str, ...] = ()
    promoted: tuple[str, ...] = ()
    run: str = ""
    edits: tuple[str, ...] = ()
    params: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Past:
    """Newest first. more: how many older ones are not listed. lacks: what is not known, and why."""

    rows: tuple[Retraining, ...]
    more: int = 0
    lacks: tuple[str, ...] = ()


def read_past(root: Path, params: Params, most: int = 20) -> Past:
    """The newest retrainings of the model in this repository and its tracker."""
    rows, lacks = _from_git(root, params.tracking.model)
    try:
        rows = _with_tracker(root, params, rows, most)
    except Exception as error:
        if not isinstance(error, InputError) and not is_from_store(error):
            raise
        lacks.append(
            "runs that failed, the gate's word, promotions and versions that git does not name: "
            f"MLflow does not tell ({error if isinstance(error, InputError) else type(error).__name__})"
        )
    rows.sort(key=lambda row: row.when)
    told = [
        replace(row, changed=_changed(root, rows[place - 1], row) if place else ("the first one known",))
        for place, row in enumerate(rows)
        if place >= len(rows) - most
    ]
    return Past(tuple(reversed(told)), max(0, len(rows) - most), tuple(lacks))


def _from_git(root: Path, model: str) -> tuple[list[Retraining], list[str]]:
    """What commits say, oldest first; what is not among them."""
    words = "%(objectname) %(committerdate:unix) %(refname)"
    said = ask_git(root, "for-each-ref", "--sort=committerdate", f"--format={words}", *SAVED)
    if said is None:
        return [], ["retrainings that were saved: this folder is no git repository"]
    refs: dict[str, list[str]] = {}
    dates: dict[str, float] = {}
    for line in said.splitlines():
        commit, date, ref = line.split(" ", 2)
        refs.setdefault(commit, []).append(ref)
        dates[commit] = float(date)
    made = _read_all(root, list(refs))
    rows: list[Retraining] = []
    seen: set[str] = set()  # journals that an earlier retraining told of already
    for commit in sorted(made, key=lambda one: dates[one]):
        if made[commit].model == model:
            rows.append(_row(made[commit], commit, dates[commit], refs[commit], seen))
            seen |= {stage.journal for stage in made[commit].stages.values()}
    others = len(refs) - len(made)
    return rows, [
        f"{others} experiments of DVC's own hold no {FILE}, so nobody knows of them"
    ] if others else []


def _read_all(root: Path, commits: Sequence[str]) -> dict[str, Made]:
    """made.json of each commit that has one, in one question to git."""
    if not commits:
        return {}
    asked = "".join(f"{commit}:{FILE}\n" for commit in commits)
    said = run_git(root, "cat-file", "--batch=%(objectname) %(objecttype)", "--buffer", given=asked)
    found: dict[str, Made] = {}
    decoder, place = json.JSONDecoder(), 0
    for commit in commits:
        line, _, _ = said[place:].partition("\n")
        place += len(line) + 1
        if not line.endswith(" blob"):
            continue
        raw, length = decoder.raw_decode(said[place:])
        place += length + len("\n\n")  # the file's own end of line, and git's
        try:
            found[commit] = Made.model_validate(raw)
        except ValueError:  # of a newer release
            continue
    return found


def _row(made: Made, commit: str, when: float, refs: Sequence[str], seen: set[str]) -> Retraining:
    ran = {
        name: stage
        for name, stage in made.stages.items()
        if stage.journal and stage.journal not in seen and not stage.came_from
    }
    named = [ref for ref in refs if ref.rpartition("/")[0].endswith(f"model/{made.model}")]
    number = named[0].rpartition("/")[2] if named else ""
    return Retraining(
        when=when,
        who=made.who,
        commit=commit,
        ref=named[0] if named else refs[0],
        ran=tuple(ran),
        hours=_hours(ran.values()),
        cost=_cost(ran.values()),
        scores=_scores(made.scores),
        version=int(number) if number.isdigit() else 0,
        run=made.retraining_run,
    )


def _hours(stages: Any) -> float | None:
    known = [stage.hours for stage in stages if stage.hours is not None]
    return sum(known) if known else None


def _cost(stages: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for stage in stages:
        if stage.cost is not None:
            found[stage.currency] = found.get(stage.currency, 0.0) + stage.cost
    return found


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    found = {name: primary(values) for name, values in scores.items()}
    return {name: figure for name, figure in found.items() if figure is not None}


def _with_tracker(root: Path, params: Params, rows: list[Retraining], most: int) -> list[Retraining]:
    """What MLflow adds: runs that left no commit, the gate's word, promotions."""
    store = registry.open_store(root, params.tracking)
    versions = {version.number: version for version in registry.list_versions(root, params.tracking, store)}
    moves = registry.trail(root, params.tracking, store)
    runs = list_runs(store, "retrain", params.tracking.model, most)
    commits = {version.saved: version.number for version in versions.values() if version.saved}
    found = {row.run or row.commit: row for row in rows}
    lone = [run.id for run in runs if run.id not in found]
    children = children_of(store, lone)
    for run in runs:
        row = _of_run(run, found.get(run.id), children.get(run.id, []))
        found[run.id] = row
    told = []
    for row in found.values():
        number = row.version or commits.get(row.commit, 0)
        version = versions.get(number)
        if version is None:
            told.append(row)
            continue
        judged = bool(row.commit or row.run == version.run_id) and version.decision
        told.append(
            replace(
                row,
                version=number,
                aliases=version.aliases,
                scores=row.scores or _scores(version.metrics),
                gate=("passed" if version.decision.get("passed") else "refused") if judged else "",
                reasons=tuple(version.decision.get("reasons") or ()) if judged else (),
                promoted=tuple(
                    f"{move.action} after {move.came_from or 'none'}, {move.when}"
                    for move in moves
                    if move.to == number
                ),
            )
        )
    return told


def _of_run(run: Run, row: Retraining | None, children: Sequence[Run]) -> Retraining:
    """A run of MLflow's; beside what git knows of it already."""
    state = STATES.get(run.status, run.status.lower())
    if row is not None:
        return replace(
            row,
            when=run.began,
            state=state,
            params=run.params,
            baseline=run.tags.get("commit", ""),
        )
    made = [_of_child(child) for child in children]
    version = run.tags.get("version", "")
    return Retraining(
        when=run.began,
        state=state,
        who=run.tags.get("who", ""),
        baseline=run.tags.get("commit", ""),
        ran=tuple(child.name for child in reversed(children)),
        hours=_hours(made),
        cost=_cost(made),
        version=int(version) if version.isdigit() else 0,
        run=run.id,
        reasons=tuple(run.tags.get("error", "").splitlines()[:1]),
        edits=("edits that are in no commit",) if made and run.tags.get("dirty") == "true" else (),
        params=run.params,
    )


def _of_child(child: Run) -> MadeStage:
    hours = child.metrics.get("gpu_hours", child.metrics.get("process_hours"))
    if hours is None and child.ended:  # it did not come to its end
        hours = int(child.tags.get("ranks", 1)) * (child.ended - child.began) / 3600
    price = float(child.params.get("machine.cost.per_gpu_hour") or 0.0)
    currency = child.params.get("machine.cost.currency", "") if price else ""
    return MadeStage(key="", hours=hours, price=price or None, currency=currency)


def _changed(root: Path, before: Retraining, row: Retraining) -> tuple[str, ...]:
    """What differs, in words: parameters, data, bases, packages, code."""
    was, now = (_params(root, one) for one in (before, row))
    told = [
        f"{one.name}: {one.before or 'nothing'} -> {one.after or 'nothing'}" for one in list_changes(was, now)
    ]
    a, b = (before.commit, row.commit) if before.commit and row.commit else (before.baseline, row.baseline)
    return (*told, *(_files(root, a, b) if a and b and a != b else ()), *row.edits)


def _params(root: Path, row: Retraining) -> Mapping[str, str]:
    if row.params or not row.commit:
        return _recipe(row.params)
    raw = yaml.safe_load(ask_git(root, "cat-file", "blob", f"{row.commit}:params.yaml") or "") or {}
    try:
        full = flatten(parse_params(raw, "params.yaml"))
    except InputError:  # of another release
        full = flatten(raw)
    return _recipe(full)


def _recipe(values: Mapping[str, str]) -> dict[str, str]:
    """Of values by name, those that decide a result: a run in MLflow has others beside them."""
    sections = Params.model_fields.keys() - {"tracking", "gate"}
    return {name: value for name, value in values.items() if name.partition(".")[0] in sections}


def _files(root: Path, a: str, b: str) -> Iterator[str]:
    wanted = ("locks", "*.py", "dvc.yaml", "compute.lock")
    said = ask_git(root, "diff", "--name-only", a, b, "--", *wanted)
    if said is None:
        yield "code and data: a commit of them is not in this repository"
        return
    code = []
    for path in said.splitlines():
        if path.startswith("locks/models/"):
            yield f"base of {Path(path).stem}"
        elif path.startswith("locks/") and path.endswith(".json"):
            yield f"data {Path(path).stem}"
        elif path == "compute.lock":
            yield "packages"
        elif not path.startswith(TESTS):
            code.append(path)
    if code:
        more = f" and {len(code) - NAMED} more" if len(code) > NAMED else ""
        yield f"code {', '.join(code[:NAMED])}{more}"
