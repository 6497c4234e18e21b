"""The page of a retraining, written while it goes on: one Markdown artifact of the flow run, from first reasons to the
end, whatever end that is. A server that is away costs a warning, never a training.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import get_run_logger
from prefect.context import FlowRunContext
from prefect.utilities.urls import url_for

from flows.history.gather import describe
from flows.history.past import read_past
from flows.history.retrainings import as_html, as_page
from flows.history.save import SAVED, Saved
from flows.history.status import look
from flows.page.addresses import commit_page, run_page
from flows.page.text import as_markdown
from flows.page.told import Failure, Links, Step, Told
from flows.places.git import ask_git
from flows.session import Session
from flows.shown import Page
from flows.stages.graph import stage_order
from flows.stages.stage import StageFailed
from flows.team.entries import read_entries
from flows.team.life.ends import as_state
from flows.team.runs import GroupFailed
from videollava.errors import InputError
from videollava.gate import Decision
from videollava.registry import Move
from videollava.registry.trail import ASK
from videollava.scrub import scrub
from videollava.tracking.journal import read_events
from videollava.tracking.lineage import entry_keys, lock_entry, read_lineage
from videollava.tracking.store import tracking_uri
from videollava.tracking.troubles import explain, is_from_store

__all__ = ["Report", "open_report"]

KEY = "retraining"
NOTE = 5000  # letters of a description that every store of MLflow's takes


class Report:
    """A retraining's page under way. `home`: the checkout that it is of."""

    def __init__(self, session: Session, home: Path, told: Told) -> None:
        self.session = session
        self.home = home
        self.told = told
        self._page = Page(
            KEY, f"{told.model}: what ran and why, where, at what cost, scores, what to do next"
        )
        session.on_note = self.note

    def write(self) -> None:
        """The page as it is now."""
        self._page.write(as_markdown(self.told))

    def note(self) -> None:
        """After each stage: what became of it, and who made what it left."""
        results = {result.stage: result for result in self.session.results}
        steps = []
        for step in self.told.steps:
            if step.result is None and step.stage in results:
                step = replace(step, result=results[step.stage], made=self._made(step.stage))
            sent = self.session.sent.get(step.stage, "")
            steps.append(replace(step, page=_run_address(sent)) if sent else step)
        self.told = replace(self.told, steps=tuple(steps))
        self.write()

    def finish(
        self,
        version: Mapping[str, Any],
        decision: Decision,
        moved: Move | None,
        saved: Saved | None,
        promote: bool,
    ) -> None:
        """What came out."""
        run = self.session.run_id()
        self.told = replace(
            self.told,
            version=int(version["number"]),
            new=bool(version["new"]),
            decision=decision,
            moved=moved is not None and moved.action != ASK,
            asked=moved is not None and moved.action == ASK,
            promote=promote,
            saved=saved.commit if saved else "",
            ref=saved.ref if saved else "",
            run=run,
            links=self._links(int(version["number"]), run, decision),
        )

    def end(self, failure: Failure | None = None) -> None:
        """The last word, on Prefect's page and as the run's description in MLflow."""
        self.told = replace(self.told, ended=time.time(), failure=failure)
        self.write()
        self.session.journal.tags({"mlflow.note.content": as_markdown(self.told)[:NOTE]})

    def list_all(self) -> None:
        """All retrainings up to this one, beside it: a page on Prefect, a file among the run's artifacts."""
        session = self.session
        own = self.told.run or session.run_id()
        try:
            past = read_past(self.home, session.params)
        except Exception as error:  # an old commit that nobody can read any more fails no retraining
            get_run_logger().warning("no table of all retrainings: %s: %s", type(error).__name__, error)
            return
        state = (
            "failed" if self.told.failure else "done"
        )  # MLflow has it as running: it ends with its journal
        rows = [replace(row, state=state) if own and row.run == own else row for row in past.rows]
        past = replace(past, rows=tuple(rows))
        title = f"Retrainings of {self.told.model}"
        Page("retrainings", title).write(f"# {title}\n\n{as_page(past)}")
        with TemporaryDirectory() as folder:
            file = Path(folder) / "retrainings.html"
            file.write_text(as_html(past, title))
            session.journal.artifact(file)

    def _made(self, stage: str) -> Any:
        root = self.session.root
        entry = lock_entry(root, stage)
        return describe(root, stage, *entry_keys(stage, entry)) if entry else None

    def _links(self, number: int, run: str, decision: Decision) -> Links:
        session = self.session
        page = run_page(session.root, session.params.tracking, run) if run else ""
        there = page.partition("#")[0]
        name, live = session.params.tracking.model, decision.champion
        kept = _artifacts(session) if page else set()
        files = {
            "report": "report.html",
            "comparison": f"against-version-{live}.html",
            "lineage": "lineage.svg",
        }
        return Links(
            run=page,
            version=f"{there}#/models/{name}/versions/{number}" if there else "",
            commit=commit_page(self.home, self.told.commit),
            **{what: f"{page}/artifacts/{file}" for what, file in files.items() if file in kept},
        )


def _artifacts(session: Session) -> set[str]:
    """Names of the files at the top of the run's artifacts."""
    assert session.journal.path is not None
    found: set[str] = set()
    for event in read_events(session.journal.path)[0]:
        if event["event"] == "artifact" and not event.get("folder"):
            found.add(Path(event["path"]).name)
    return found


def _run_address(run: str) -> str:
    """Prefect's page of a flow run."""
    return url_for("flow-run", obj_id=run) or ""


@contextmanager
def open_report(session: Session, home: Path, who: str, changes: Sequence[str] = ()) -> Iterator[Report]:
    """Write the page of what is about to run and why; within, it is kept up to date, and at the end it says which."""
    report = Report(session, home, _begin(session, home, who, changes))
    report.write()
    try:
        yield report
    except Exception as error:
        report.end(_failure(error, report.told))
        report.list_all()
        raise
    except BaseException:
        report.end(
            Failure("", "stopped before it ended: cancelled, or its process was told to end", again=True)
        )
        raise
    report.end()
    report.list_all()


def _begin(session: Session, home: Path, who: str, changes: Sequence[str]) -> Told:
    root = session.root
    lineage = read_lineage(root)
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    edits = ask_git(root, "diff", "--name-only", "HEAD", "--", ":!dvc.lock", ":!locks") or ""
    return Told(
        model=session.params.tracking.model,
        who=who,
        began=time.time(),
        profile=session.params.profile,
        changes=tuple(scrub(change) for change in changes),
        commit=lineage.commit,
        subject=ask_git(root, "log", "-1", "--format=%s") or "",
        edits=tuple(edits.split("\n")) if edits and not changes else (),
        pool=(run.work_pool_name or "") if run else "",
        host=platform.node(),
        steps=tuple(_steps(session, home)),
        tracker=scrub(tracking_uri(root, session.params.tracking)),
    )


def _steps(session: Session, home: Path) -> Iterator[Step]:
    """Every stage, with the reasons for it to run that there are before anything did: against what lies here, or, of a
    stage that never ran here, against the last retraining that was saved.
    """
    try:
        states = look(session.root, before=_last_entries(home))
    except Exception as error:  # a page with fewer reasons is no reason to train nothing
        get_run_logger().warning("why stages run is not known: %s: %s", type(error).__name__, error)
        yield from (Step(stage) for stage in stage_order(session.root))
        return
    for state in states:
        earlier = [reason.what for reason in state.reasons if reason.kind == "earlier"]
        own = [reason for reason in state.reasons if reason.kind != "earlier"]
        why = [reason.text for reason in own if reason.kind != "output"] or [reason.text for reason in own]
        if earlier and not why:
            why = [f"after {', '.join(earlier)}"]
        yield Step(state.stage, tuple(scrub(text) for text in why))


def _last_entries(home: Path) -> dict[str, Any]:
    """dvc.lock of the retraining that was saved last; empty where there is none."""
    last = ("--sort=-committerdate", "--count=1", "--format=%(objectname)")
    commit = ask_git(home, "for-each-ref", *last, *SAVED)
    text = ask_git(home, "cat-file", "blob", f"{commit}:dvc.lock") if commit else None
    return read_entries(text) if text else {}


def _failure(error: Exception, told: Told) -> Failure:
    if isinstance(error, StageFailed):
        first, *lines = str(error).splitlines()
        return Failure(error.stage, first, tuple(lines), not error.lasting, as_state(error).name or "")
    if isinstance(error, GroupFailed):
        first, *lines = str(error).splitlines()
        at = next((step.stage for step in told.steps if step.result is None), "")
        return Failure(at, first, tuple(lines), error.state.name != "Refused", error.state.name or "")
    cause: BaseException | None = error
    while cause is not None and not is_from_store(cause):
        cause = cause.__cause__
    again = cause is not None and explain(cause).passing
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return Failure("", scrub(f"{kind}{error}".strip().split("\n")[0]), again=again)
