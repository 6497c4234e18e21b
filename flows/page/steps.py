"""What a lead does next: by what came out of a retraining."""

from __future__ import annotations

from collections.abc import Iterator

from flows.page.told import Told

__all__ = ["next_steps"]

# By the name of the state that a stage's run ended in.
KINDS = {
    "Budget": "it has cost what `cost.ceiling` of machine.yaml allows: trigger it once more with a higher one, and it "
    "goes on from its last checkpoint; or `videollava finish` takes what it has learned",
    "Stalled": "it hung, and hung again: its last lines and the figures of its run say where, `stall_minutes` of "
    "machine.yaml how long is waited",
    "Again": "it was told to end, and kept a checkpoint: trigger it once more, and it goes on from there",
    "Killed": "it was killed, and killed again: where memory was wanting (`dmesg` tells), lower `tokens_per_pack` or "
    "`workers` of machine.yaml; triggered once more, it goes on from its last checkpoint",
    "Crashed": "its machine, worker or process was lost again and again: see to it, then trigger it once more; it goes "
    "on from its last checkpoint",
}


def next_steps(told: Told) -> list[str]:
    """A line each; none while it is under way."""
    if told.failure is not None:
        return list(_after_failure(told))
    if not told.ended or told.decision is None:
        return []
    if told.asked:
        return [
            f"another person agrees with `videollava promote {told.version}` (or the deployment `promote`)"
        ]
    if told.moved:
        back = f"`videollava rollback` makes version {told.champion} champion again, should this one not do"
        return [back] if told.champion else []
    if not told.decision.passed:
        return list(_after_refusal(told))
    if told.promote or told.decision.champion == told.version:
        return []
    return [f"`videollava promote {told.version}` makes it champion"]


def _after_refusal(told: Told) -> Iterator[str]:
    decision = told.decision
    assert decision is not None
    yield from (f"the gate: {reason}" for reason in decision.reasons)
    if decision.unanswered:
        asked = ",".join(decision.unanswered)
        yield (
            f"the champion was not asked the same questions: `videollava evaluate --model "
            f"models:/{told.model}/{decision.champion} --benchmarks {asked} --keep` asks it"
        )
    if told.champion:
        yield (
            f"`videollava diff {told.champion} {told.version}` says what differs from the champion, and which "
            "answers changed"
        )
    judge = f"`videollava promote {told.version}`"
    yield f"after a change of gate.yaml (on its protected commit) {judge} judges it anew, without a training"
    forced = f'`videollava promote {told.version} --force --because "..."`'
    yield f"past the gate, for a reason that the trail keeps: {forced}"


def _after_failure(told: Told) -> Iterator[str]:
    failure = told.failure
    assert failure is not None
    done = [stage for stage, result in told.results.items() if result.outcome == "ran"]
    if failure.kind in KINDS:
        yield KINDS[failure.kind]
    elif failure.again:
        yield "where that passes by itself, trigger it once more: a training goes on from its last checkpoint"
        yield "else mend what the last lines say first"
    else:
        yield "the same trigger would end the same: mend what the message says first"
    if done:
        yield f"nothing is lost: {', '.join(done)} need not run again"
    if told.version and told.decision is None:
        yield f"version {told.version} is registered; `videollava promote {told.version}` judges it"
