"""A flow run's sign of life: a progress artifact on the run's page, and what the server says of the run, read back.

with beating(say) as pulse:             # in the flow `stage`, and in the coordinator's
    with pulse.over(workspace, "pretrain"):
        run_stage(workspace, "pretrain", ..., look=pulse.look)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from videollava.process import Supervised

__all__ = ["Pulse", "Stalled", "beating"]


class Stalled(RuntimeError):
    """A stage wrote nothing to its journal, and did nothing else that counts, for `stall_minutes`."""


class Pulse:
    """Of this process's flow run."""

    @contextmanager
    def over(self, workspace: Path, stage: str) -> Iterator[None]:
        """Inside, `stage` is at work in `workspace`: its journal is what the run's page shows."""
        yield

    def look(self, running: Supervised) -> None:
        """To be called every second or so of a stage's process; raises Stalled where it hangs."""


@contextmanager
def beating(say: Callable[[str], None]) -> Iterator[Pulse]:
    """Inside, the run gives signs of life; it ends, with all it started, where somebody closed or cancelled it."""
    yield Pulse()
