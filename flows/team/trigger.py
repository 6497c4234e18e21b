"""What a trigger asks for: the commit, by `origin` where a team works, and a name that equal triggers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flows.team.carry import fetch_commit
from flows.team.life.sweep import sweep_beside
from flows.team.turns import take_turn
from videollava.machine import Pools, load_machine
from videollava.tracking.lineage import digest

__all__ = ["settle_trigger"]


def settle_trigger(
    home: Path, commit: str, profile: str, overrides: Sequence[str], say: Callable[[str], None]
) -> tuple[str, str]:
    """(commit, name of its clone) that this trigger means. Where another one that means the same is at work, it is
    waited for.

    Without pools a commit is one of this checkout, HEAD without one; with them one of `origin`, whose main branch
    counts, wherever this checkout is.
    """
    asked = [profile, list(overrides)]
    if load_machine(home).pools != Pools():
        commit = fetch_commit(home, commit)
        sweep_beside(say)
        take_turn(digest([commit, *asked]), say)
    return commit, digest([commit, *asked])[:12] if any(asked) else ""
