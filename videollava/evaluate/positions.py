"""What a prompt that has more tokens than a language model has positions is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from videollava.errors import InputError
from videollava.model.positions import positions_of

__all__ = ["Refused", "TooLong", "check_length"]


class TooLong(InputError):
    """A prompt leaves no room for an answer within the model's positions."""


class Refused(InputError):
    """Some of several prompts could not be answered: `refusals` says why by place, `answers` has the others' answers
    (None in the place of the refused ones).
    """

    def __init__(self, refusals: Mapping[int, str], answers: Sequence[str | None]) -> None:
        more = f"; the other {len(answers) - len(refusals)} answers are in this error's `answers`"
        super().__init__("; ".join(refusals.values()) + (more if len(answers) > len(refusals) else ""))
        self.refusals, self.answers = dict(refusals), list(answers)


def check_length(length: int, config: Any, visual: int = 0, where: str = "") -> None:
    """TooLong where a prompt of `length` tokens (`visual` of them of media) fills the model's positions."""
    most = positions_of(config)
    if most and length >= most:
        of_media = f" ({visual:,} of them of its media)" if visual else ""
        raise TooLong(
            f"{where + ': ' if where else ''}the prompt has {length:,} tokens{of_media}; the model has {most:,} "
            "positions for prompt and answer: shorten the question or give fewer media"
        )
