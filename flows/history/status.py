"""`videollava status`: each stage, whether it is current or will run and why, and who made what is there."""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.history.reasons import Reason, can_restore, fill_in, is_absent, open_repo, own_reasons, pipeline
from flows.stages.graph import check_params, stage_order
from videollava.data.prepare.listed import check_listed
from videollava.params import load_params, read_mapping
from videollava.tracking.journal import under_way
from videollava.tracking.packages import differing_packages, in_words
from videollava.tracking.spent import Made, read_made

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

__all__ = ["StageState", "add_arguments", "look", "run"]

State = Literal["current", "open", "absent", "restored", "runs", "running"]
WORDS: Mapping[State, str] = {
    "current": "current",
    "open": "may follow",
    "absent": "not here",
    "restored": "restorable",
    "runs": "will run",
    "running": "running",
}
FOLLOWED = {"open": "may follow", "restored": "is restored", "runs": "runs", "running": "is running"}
TOLD: Mapping[State, str] = {
    "open": "it runs if a stage before it makes something else than before",
    "absent": "nothing changed, and its outputs lie elsewhere: a DVC remote brings them, else it runs",
    "restored": "it need not run: DVC's cache has what these inputs give",
}
NOTHING: Mapping[str, Any] = {}
STATE = 12
SHORT = 8
WIDTH = 110


@dataclass(frozen=True)
class StageState:
    """What is to be said of a stage. made: the run whose outputs dvc.lock names, None where no journal here tells."""

    stage: str
    state: State
    reasons: tuple[Reason, ...]
    made: Made | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `videollava status`."""
    parser.add_argument(
        "stage", nargs="?", default="", help="only this one and what it needs, such as finetune or fetch@NAME"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """Say how it stands."""
    root = Path.cwd()
    states = look(root, options.stage)
    differing = differing_packages(root)
    if options.json:
        told = {"stages": [asdict(state) for state in states], "packages": differing}
        print(json.dumps(told, indent=2))
        return 0
    print(_table(states))
    if differing:
        print("\n" + _wrap(f"packages that are installed otherwise: {in_words(differing)}", ""))
    return 0


def look(root: Path, target: str = "", before: Mapping[str, Any] = NOTHING) -> list[StageState]:
    """The state of each stage, in the order they run; only `target` and what it needs where one is named.

    before: entries of dvc.lock that a stage is held against which never ran here. InputError where params.yaml,
    dvc.yaml or dvc.lock cannot be read.
    """
    params = load_params(root / "params.yaml")
    check_params(root, read_mapping(root / "params.yaml"))
    order = stage_order(root, target)
    if "index" in order:
        check_listed(root, params.sources)
    with open_repo(root) as repo:
        return list(_states(repo, root, order, before))


def _states(repo: Repo, root: Path, order: Sequence[str], before: Mapping[str, Any]) -> Iterator[StageState]:
    stages = pipeline(repo)
    for name, stage in stages.items():
        fill_in(stage, before.get(name))
    made = {out.def_path: out for stage in stages.values() for out in stage.outs}
    unsettled: dict[str, str] = {}  # by path: what its stage, of which other outputs may come, is said to do
    for name in order:
        stage = stages[name]
        # What an earlier stage brings or makes is no change of this one's own.
        reasons = [reason for reason in own_reasons(stage, made) if reason.what not in unsettled]
        earlier = dict.fromkeys(unsettled[dep.def_path] for dep in stage.deps if dep.def_path in unsettled)
        state = _state(stage, reasons, bool(earlier), bool(under_way(root / "runs", name)))
        same = state in ("current", "absent") or (state == "restored" and is_absent(reasons))
        if not same:
            unsettled |= {out.def_path: f"{name} {FOLLOWED[state]}" for out in stage.outs}
        reasons += [Reason("earlier", text.partition(" ")[0], text) for text in earlier]
        yield StageState(name, state, tuple(reasons), read_made(root, name))


def _state(stage: PipelineStage, reasons: list[Reason], follows: bool, at_work: bool) -> State:
    if at_work:
        return "running"
    if reasons and not follows and can_restore(stage, reasons):
        return "restored"
    if is_absent(reasons):
        return "open" if follows else "absent"
    return "runs" if reasons else "open" if follows else "current"


def _table(states: Sequence[StageState]) -> str:
    wide = max(len(state.stage) for state in states) + 2
    lines = [f"{'stage':<{wide}}{'':<{STATE}}made"]
    for one in states:
        lines.append(f"{one.stage:<{wide}}{WORDS[one.state]:<{STATE}}{_made(one.made)}".rstrip())
        lines += [_wrap(reason.text, "    ") for reason in one.reasons if reason.kind != "earlier"]
        if earlier := [reason.what for reason in one.reasons if reason.kind == "earlier"]:
            lines.append(_wrap(f"after {', '.join(earlier)}", "    "))
    used = dict.fromkeys(one.state for one in states)
    lines += ["", *(f"{WORDS[state]}: {TOLD[state]}" for state in TOLD if state in used)]
    return "\n".join(lines).rstrip()


def _made(made: Made | None) -> str:
    if made is None:
        return ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(made.ended))
    commit = f", at {made.commit[:SHORT]}" if made.commit else ""
    notes = "".join(f", {name.replace('_', ' ')} {text}" for name, text in made.notes.items())
    return f"{when} on {made.host or 'an unknown machine'} in {_span(made.seconds)}{commit}{notes}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _wrap(text: str, indent: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False
    )
