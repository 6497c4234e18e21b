"""The page of a retraining as Markdown: what came out, what to do next, scores, what ran and why, cost, links."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from flows.history.made import MadeStage
from flows.page.steps import next_steps
from flows.page.told import Step, Told
from videollava.gate import Decision

__all__ = ["as_markdown", "headline", "spent_text"]

SHORT = 12
SHOWN = 4  # reasons of a stage


def as_markdown(told: Told) -> str:
    """The whole page."""
    parts = [f"# {headline(told)}", _facts(told)]
    if told.failure is not None:
        parts.append(_failure(told))
    if steps := next_steps(told):
        parts += ["## What to do next", "\n".join(f"- {line}" for line in steps)]
    if told.decision is not None:
        parts += [f"## Scores against champion {told.champion}" if told.champion else "## Scores"]
        parts += [scores_table(told.decision)]
        parts += ["\n".join(f"- {_plain(note)}" for note in told.decision.notes)]
    parts += ["## What ran and why", _stages(told)]
    if told.notes:
        parts += ["## To be known", "\n".join(f"- {_plain(note)}" for note in told.notes)]
    parts += ["## Where to look", _links(told)]
    return "\n\n".join(part for part in parts if part) + "\n"


def headline(told: Told) -> str:
    """What came out, in a line."""
    name = f"{told.model} {told.version}" if told.version else told.model
    if told.failure is not None:
        return f"{name}: failed{f' in {told.failure.stage}' if told.failure.stage else ''}"
    if not told.ended:
        at = next((step.stage for step in told.steps if step.result is None), "")
        return f"{name}: retraining{f', at {at}' if at else ''}"
    decision = told.decision
    if decision is None:
        return f"{name}: done"
    if told.moved:
        return f"{name}: passed the gate, and is champion"
    if told.asked:
        return f"{name}: passed the gate, and waits for another person's approval"
    same = "" if told.new else "nothing to retrain; registered before, "
    if not decision.passed:
        return f"{name}: {same}refused by the gate"
    if decision.champion == told.version:
        return f"{name}: {same}the champion already"
    return f"{name}: {same}passed the gate, not promoted"


def scores_table(decision: Decision) -> str:
    """Scores against the champion, with the gain's interval and what the gate asks."""
    rows = [
        (
            row.benchmark,
            _points(row.score),
            _points(row.blind),
            _points(row.champion),
            _points(row.gain, True),
            "-" if row.low is None or row.high is None else f"{row.low:+.2f} to {row.high:+.2f}",
            _points(row.at_least, True),
            "-" if row.allowed is None else f"{-row.allowed:+.2f}",
            f"{row.n:,}" if row.n else "-",
            row.verdict,
        )
        for row in decision.rows
    ]
    level = float(decision.rules.get("level") or 0.05)
    heads = ("benchmark", "score", "blinded", "champion", "gain", "95 % interval")
    return table([*heads, f"at least ({100 * (1 - level):g} %)", "may lose", "questions", "gate"], rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A Markdown table."""
    lines = [heads, ["---:" if place in numbers else "---" for place, _ in enumerate(heads)]]
    cells = [[_plain(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *cells])


def spent_text(steps: Sequence[Step]) -> tuple[str, str]:
    """Hours of all ranks, and what they cost: of the stages that ran, in words; "" where nothing is known."""
    ran = [step.made for step in steps if step.result and step.result.outcome == "ran" and step.made]
    on_gpus = sum(made.hours or 0.0 for made in ran if made.device == "cuda")
    others = sum(made.hours or 0.0 for made in ran if made.device != "cuda")
    hours = [f"{_count(on_gpus)} GPU-hours"] if on_gpus else []
    hours += [f"{_count(others)} process-hours"] if others or (ran and not on_gpus) else []
    return " and ".join(hours), _money(_costs(ran))


def _costs(ran: Sequence[MadeStage]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for made in ran:
        if made.cost is not None:
            found[made.currency] = found.get(made.currency, 0.0) + made.cost
    return found


def _count(hours: float) -> str:
    return f"{hours:,.2f}" if hours >= 1 else f"{hours:.3f}"


def _money(costs: Mapping[str, float]) -> str:
    return " and ".join(f"{cost:,.2f} {currency}" for currency, cost in costs.items())


def _facts(told: Told) -> str:
    hours, cost = spent_text(told.steps)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(told.began))
    code = f"`{told.commit[:SHORT]}` {told.subject}".strip() if told.commit else "no commit is known"
    edits = f", with uncommitted edits of {_some(told.edits)}" if told.edits else ""
    lines = [
        f"**Who** {told.who or 'unknown'}",
        f"**When** {when}{f', {span(told.ended - told.began)}' if told.ended else ', under way'}",
        f"**Code** {code}{edits}",
        f"**Asked** profile {told.profile}{f', {_some(told.changes)}' if told.changes else ''}",
        f"**Where** {told.host}{f', pool {told.pool}' if told.pool else ''}",
    ]
    if hours:
        price = cost or "no price is set (`cost.per_gpu_hour` of machine.yaml)"
        lines.append(f"**Spent** {hours}: {price}")
    return "  \n".join(_plain(line) for line in lines)


def _failure(told: Told) -> str:
    assert told.failure is not None
    parts = [f"**{_plain(told.failure.text)}**"]
    if told.failure.lines:
        parts.append("```\n" + "\n".join(told.failure.lines).replace("```", "'''") + "\n```")
    return "\n\n".join(parts)


def _stages(told: Told) -> str:
    shown = [step for step in told.steps if step.result is None or step.result.outcome != "unchanged"]
    same = [step.stage for step in told.steps if step not in shown]
    parts = []
    if shown:
        heads = ("stage", "outcome", "why", "where", "time", "hours", "cost")
        parts.append(table(heads, [_row(step, told) for step in shown], numbers=(4, 5, 6)))
    if not told.ended:
        parts.append(
            "How far a stage is: the artifact `progress`, here or on the page that its name leads to."
        )
    if same:
        parts.append(f"Unchanged, so not run: {', '.join(same)}.")
    return "\n\n".join(parts) or "No stage has ended yet."


def _row(step: Step, told: Told) -> Sequence[str]:
    result, made = step.result, step.made
    name = f"[{step.stage}]({step.page})" if step.page else step.stage
    if result is None:
        failed = told.failure is not None and told.failure.stage == step.stage
        word = "**failed**" if failed else "sent" if step.page and not told.ended else "-"
        return (name, word, _some(step.why), "", "", "", "")
    mine = made if result.outcome == "ran" else None
    hours = "" if mine is None or mine.hours is None else _count(mine.hours)
    cost = "" if mine is None or mine.cost is None else f"{mine.cost:,.2f} {mine.currency}"
    note = "; **not on the DVC remote**" if result.unpushed else ""
    return (
        name,
        f"{result.outcome}{note}",
        "what these inputs give was made before" if result.outcome == "restored" else _some(step.why),
        where(mine) if mine is not None else "",
        span(result.seconds),
        hours,
        cost,
    )


def where(made: MadeStage) -> str:
    """Pool, worker, host and devices of a stage."""
    devices = f"{made.ranks or 1} x {'GPU' if made.device == 'cuda' else made.device or 'cpu'}"
    sent = f"pool {made.pool}" if made.pool else ""
    worker = f"worker {made.worker}" if made.worker else ""
    host = "" if made.host and made.host in made.worker else made.host
    return ", ".join(filter(None, (sent, worker, host, devices)))


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def _links(told: Told) -> str:
    return "\n".join(f"- {line}" for line in _places(told))


def _places(told: Told) -> Iterator[str]:
    links = told.links
    if told.version:
        yield f"version: {_link(f'models:/{told.model}/{told.version}', links.version)}"
    if told.run:
        yield f"MLflow run: {_link(told.run, links.run)}"
    for name, address in (
        ("report", links.report),
        ("answers beside the champion's", links.comparison),
        ("lineage as a picture", links.lineage),
    ):
        if address:
            yield f"{name}: {_link(address.rpartition('/')[2], address)}"
    if told.run and not links.run:
        yield f"MLflow is `{told.tracker}`: `make ui` serves its pages (report and lineage are the run's artifacts)"
    if told.saved:
        name = str(told.version or told.saved[:SHORT])
        yield f"saved as commit `{told.saved[:SHORT]}`, `{told.ref}`: `videollava lineage {name}` tells it all"
    if told.commit:
        yield f"code: {_link(told.commit[:SHORT], links.commit)}"


def _link(text: str, address: str) -> str:
    return f"[{text}]({address})" if address else f"`{text}`"


def span(seconds: float) -> str:
    """A time in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _points(value: float | None, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.2f}" if sign else f"{value:.2f}"


def _plain(text: str) -> str:
    """Angle brackets are no tags, whoever wrote them; a line break ends no row."""
    return " ".join(text.replace("<", "&lt;").split()) if "\n" in text or "<" in text else text
