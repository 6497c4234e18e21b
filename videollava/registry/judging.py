"""The gate, asked about a registered version: with both versions' answers to the same questions, wherever they lie."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.gate import Decision, Pair, decide, read_pairs, read_rules
from videollava.params import Params, Tracking
from videollava.registry.encoders import why_unasked
from videollava.registry.evidence import answers_folder, later_answers
from videollava.registry.refusals import answered
from videollava.registry.store import Store
from videollava.registry.versions import DECISION, Version, list_versions, open_store
from videollava.scrub import scrub_all
from videollava.tracking.troubles import explain, is_from_store

__all__ = ["examine", "note_decision"]

log = logging.getLogger(__name__)


def examine(
    version: Version, live: Version | None, params: Params, workspace: Path, places: Sequence[Store] = ()
) -> Decision:
    """The gate's decision on a version, by gate.yaml of the protected commit, against the champion it would replace.

    Both versions' answers are looked for in DVC's cache, in `places`, and where they were registered with; the
    champion's also among its later evaluations. Benchmarks that it must answer first are the decision's `unanswered`.
    """
    rules = read_rules(workspace, params.tracking.model)
    decided = _count_decided(version, workspace, params.tracking)
    if live is None or live.number == version.number:
        decision = decide(version.metrics, None, rules, decided=decided)
        return replace(decision, candidate=version.number, champion=live.number if live else 0)
    pairs, unlike, lacking = _compare(version, live, params.tracking, workspace, places)
    alone = [
        name for name, one in version.metrics.items() if one.get("asked") == "encoders" and name not in pairs
    ]
    unable = {} if lacking else why_unasked(workspace, params.tracking, live, version.metrics, alone, places)
    decision = decide(version.metrics, live.metrics, rules, pairs, unlike, decided, unable)
    decision = replace(decision, candidate=version.number, champion=live.number)
    if lacking:  # the champion's answers help nothing where the candidate's are gone
        return replace(decision, unanswered=(), notes=(*decision.notes, lacking))
    if decision.unanswered:
        command = f"videollava evaluate --model {live.reference} --benchmarks {','.join(decision.unanswered)} --keep"
        note = f"`{command}`, in a checkout that has the same questions, lets the champion answer them"
        decision = replace(decision, notes=(*decision.notes, note))
    if not live.metrics:  # nothing to lose against is not the same as nothing lost
        why = ", ".join(live.remarks) or "it has none"
        reason = (
            f"champion {live.number}: no scores to compare with ({why}); mend its tags, or promote by --force"
        )
        decision = replace(decision, passed=False, reasons=(*decision.reasons, reason))
    return decision


@answered
def note_decision(workspace: Path, tracking: Tracking, version: Version, decision: Decision) -> None:
    """Keep a decision with its version (tag `decision`, JSON); what the store refuses is a warning."""
    text = json.dumps(scrub_all(decision.as_dict()), sort_keys=True, allow_nan=False)
    try:
        client = open_store(workspace, tracking).client
        client.set_model_version_tag(version.name, str(version.number), DECISION, text)
    except Exception as error:
        if not isinstance(error, InputError) and not is_from_store(error):
            raise
        told = explain(error).text if is_from_store(error) else str(error)
        log.warning("%s: the gate's decision was not kept with it: %s", version.reference, told)


def _compare(
    version: Version, live: Version, tracking: Tracking, workspace: Path, places: Sequence[Store]
) -> tuple[dict[str, Pair], dict[str, str], str]:
    """Pairs by benchmark, why others have none, and what lacks altogether ("" nothing)."""
    mine = answers_folder(workspace, tracking, version, places)
    if mine is None:
        lacking = f"version {version.number}: its answers are in no store: run `videollava evaluate` and register again"
        return {}, dict.fromkeys(version.metrics, "this version's answers are in no store"), lacking
    theirs = answers_folder(workspace, tracking, live, places)
    later = later_answers(workspace, tracking, live, version.metrics)
    try:
        pairs, unlike = read_pairs(mine, [*([theirs] if theirs else []), *later])
    except InputError as error:
        return {}, dict.fromkeys(version.metrics, str(error)), f"version {version.number}: {error}"
    if theirs is None:
        gone = dict.fromkeys(live.metrics, "the champion's answers are in no store")
        unlike = {name: why for name, why in (gone | unlike).items() if name not in pairs}
    return pairs, unlike, ""


def _count_decided(version: Version, workspace: Path, tracking: Tracking) -> dict[str, int]:
    """By benchmark, how many other versions the gate has judged by the same questions."""
    hashes = {name: one["questions"] for name, one in version.metrics.items() if one.get("questions")}
    if not hashes:
        return {}
    counts = dict.fromkeys(hashes, 0)
    for other in list_versions(workspace, tracking):
        if other.number != version.number:
            asked = _questions(other.decision)
            for name, told in hashes.items():
                counts[name] += told in asked
    return counts


def _questions(decision: Mapping[str, Any]) -> set[str]:
    rows = decision.get("rows")
    return (
        {str(row.get("questions")) for row in rows if isinstance(row, dict)}
        if isinstance(rows, list)
        else set()
    )
