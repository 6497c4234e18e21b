"""What a check found, for people: a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from videollava.data.check.findings import QUANTILES, Findings
from videollava.data.check.picture import bars_of
from videollava.data.check.run import Checked

__all__ = ["show"]

SHOWN = 3  # examples of a reason
BARS = 12


def show(checked: Checked, counted: str, written: Iterable[str], console: Any) -> None:
    """Print the tables. counted: how lengths were had; written: files that hold more."""
    findings = checked.findings
    console.print(_counts(checked))
    if findings.lengths:
        console.print(_lengths(findings))
        told = ", ".join(f"{name} {findings.quantile(share):,}" for name, share in QUANTILES.items())
        console.print(f"tokens a record ({counted}): {told}", markup=False)
        console.print(
            f"cut by training: {findings.cut_records:,} records, {findings.cut_tokens:,} tokens of text"
        )
    for title, counts, style in (
        ("would be quarantined", findings.refused, "red"),
        ("to look at (kept)", findings.warned, "yellow"),
    ):
        if counts:
            console.print(_problems(title, counts, findings, style))
    for note, count in findings.notes.items():
        console.print(_plain(f"- {note}") + ("" if note.endswith("say") else f" ({count:,})"), markup=False)
    console.print(_plain(verdict(checked)), markup=False)
    for file in written:
        console.print(file, markup=False, soft_wrap=True)


def verdict(checked: Checked) -> str:
    """One sentence on whether the pipeline would take it."""
    findings = checked.findings
    share = findings.rejected / findings.records
    told = (
        f"{findings.records - findings.rejected:,} of {findings.records:,} records can be used; {findings.rejected:,} "
        f"({share:.1%}) would be quarantined, and shards.max_quarantined allows {checked.most:.1%}"
    )
    unsearched = (
        "" if checked.searched or not findings.media else " Media were not looked for: give --media FOLDER."
    )
    if checked.stopped:
        return f"{told}. It can't be read to its end: {checked.stopped}"
    return f"{told}: {'passed' if checked.passed else 'too many'}.{unsearched}"


def _plain(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


def _counts(checked: Checked) -> Any:
    from rich.text import Text

    findings = checked.findings
    table = _table(checked.name, "", "number")
    table.add_row("records", f"{findings.records:,}")
    table.add_row("  of text only", f"{findings.texts_only:,}")
    table.add_row("turns", f"{findings.turns:,}")
    for kind in findings.media:
        marks = f"{findings.marks[kind]:,} marks, {findings.distinct[kind]:,} different"
        table.add_row(f"media: {kind}", f"{findings.media[kind]:,} ({marks})")
    if findings.media_bytes:
        table.add_row("  bytes of them", f"{findings.media_bytes:,}")
    for title, counts in (("split", findings.splits), ("kind", findings.kinds)):
        if len(counts) > 1 or (counts and "not said" not in counts):
            for name, count in counts.most_common(10):
                table.add_row(Text(_plain(f"{title}: {name}")), f"{count:,}")
    if both := findings.both_sides():
        table.add_row("media of test records that are trained on too", f"{both:,}")
    return table


def _lengths(findings: Findings) -> Any:
    table = _table("", "tokens", "records", "")
    bars = bars_of(findings.lengths, BARS)
    most = max(bar.count for bar in bars)
    for bar in bars:
        span = f"{bar.low:,} to {bar.high - 1:,}" if bar.high - bar.low > 1 else f"{bar.low:,}"
        table.add_row(span, f"{bar.count:,}", bar.as_blocks(most))
    return table


def _problems(title: str, counts: Mapping[str, int], findings: Findings, style: str) -> Any:
    from rich.text import Text

    table = _table(title, "reason", "records", "such as")
    for reason, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        shown = "\n".join(problem.detail for problem in findings.examples[reason][:SHOWN])
        table.add_row(Text(reason, style=style), f"{count:,}", Text(_plain(shown)))
    return table


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in ("number", "records") else "left")
    return table
