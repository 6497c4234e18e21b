"""How a run ends before its end, and what its exit status says to whoever started it.

75 (EX_TEMPFAIL): start it again, it goes on from its checkpoint. 76: it hung and was ended: once more may help. 77: it
has cost what it may cost, so that a person has to decide. 130: a person stopped it.
"""

from __future__ import annotations

__all__ = ["AGAIN", "BUDGET", "INTERRUPTED", "KILLED", "STALLED", "TRAINING", "Ended"]

TRAINING = ("bases", "align", "pretrain", "finetune")  # stages that end so; the others end as any program

AGAIN = 75
STALLED = 76
BUDGET = 77
INTERRUPTED = 130
KILLED = (137, -9)  # as a shell says it, and as a parent does


class Ended(SystemExit):
    """The stage ends here on purpose. `status`: its exit status; the text: what was kept, and how to go on; steps: that
    this attempt has done.
    """

    def __init__(self, status: int, sentence: str, steps: int = 0) -> None:
        super().__init__(status)
        self.status, self.sentence, self.steps = status, sentence, steps

    def __str__(self) -> str:
        return self.sentence
