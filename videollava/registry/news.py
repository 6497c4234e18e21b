"""What people are told of a registered model: a promotion, a request, a refusal, a failure, as notices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videollava.ends import BUDGET
from videollava.errors import InputError
from videollava.gate import Decision, read_rules
from videollava.notices import Notice, addresses, send
from videollava.params import Tracking
from videollava.registry.trail import ASK, Move, sentence
from videollava.scrub import scrub
from videollava.tracking.store import tracking_uri

__all__ = ["announce", "failed", "moved", "passed", "recipients", "refused", "synced"]


def moved(workspace: Path, tracking: Tracking, move: Move, decision: Decision | None = None) -> Notice:
    """The champion moved, or a version waits for approval."""
    return Notice(
        "approval" if move.action == ASK else "moved",
        f"{tracking.model}: {sentence(move)}",
        tracking.model,
        move.to,
        _scores(decision),
        move.reasons,
        move.who,
        _link(workspace, tracking, move.to),
    )


def refused(workspace: Path, tracking: Tracking, number: int, decision: Decision, who: str) -> Notice:
    """The gate refused what a retraining made."""
    return Notice(
        "refused",
        scrub(f"{tracking.model}: version {number} was refused by the gate: {'; '.join(decision.reasons)}"),
        tracking.model,
        number,
        _scores(decision),
        decision.reasons,
        who,
        _link(workspace, tracking, number),
    )


def passed(workspace: Path, tracking: Tracking, number: int, decision: Decision, who: str) -> Notice:
    """The gate let what a retraining made pass, and nobody wanted it promoted."""
    return Notice(
        "passed",
        f"{tracking.model}: version {number} passed the gate and waits: `videollava promote {number}`",
        tracking.model,
        number,
        _scores(decision),
        decision.notes,
        who,
        _link(workspace, tracking, number),
    )


def failed(tracking: Tracking, error: BaseException, who: str, what: str = "retraining") -> Notice:
    """A retraining ended without a version, for good or at its cost ceiling; or something else that people count on."""
    first = (scrub(str(error)).splitlines() or [type(error).__name__])[0]
    costly = getattr(error, "status", 0) == BUDGET
    came = "reached its cost ceiling" if costly else "failed"
    return Notice(
        "ceiling" if costly else "failed",
        f"{tracking.model}: {what} {came}: {first}",
        tracking.model,
        who=who,
    )


def synced(tracking: Tracking, text: str, changes: Sequence[str], who: str) -> Notice:
    """Sources changed, and a branch has their new locks; changes: a line a source."""
    return Notice("data", scrub(f"{tracking.model}: {text}"), tracking.model, reasons=changes, who=who)


def recipients(workspace: Path, tracking: Tracking) -> tuple[list[str], str]:
    """The addresses that are told of this model, and what is wrong with them (""), which shows none."""
    try:
        return addresses(read_rules(workspace, tracking.model).gate.notify), ""
    except InputError as error:
        return [], f"no notice was sent: {error}"


def announce(workspace: Path, tracking: Tracking, notice: Notice) -> list[str]:
    """Tell everybody; what went wrong, a sentence each. Never raises for what a notice meets."""
    targets, trouble = recipients(workspace, tracking)
    return [trouble] if trouble else send(notice, targets)


def _scores(decision: Decision | None) -> dict[str, float]:
    return {row.benchmark: row.score for row in decision.rows if row.score is not None} if decision else {}


def _link(workspace: Path, tracking: Tracking, number: int) -> str:
    uri = scrub(tracking_uri(workspace, tracking)).replace("***@", "").rstrip("/")
    return f"{uri}/#/models/{tracking.model}/versions/{number}" if uri.startswith("http") and number else ""
