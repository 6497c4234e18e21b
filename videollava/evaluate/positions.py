"""How many tokens a language model has places for, and what a prompt that has more is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from videollava.errors import InputError

__all__ = ["Refused", "TooLong", "check_length", "positions_of"]


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


def positions_of(config: Any) -> int:
    """Positions of a model's language model, 0 where it has no bound.

    A model whose rotary embedding is scaled reaches further: by its factor from the positions it was made with
    (linear, dynamic, YaRN), or as far as its configuration says, whichever is more.
    """
    text = getattr(config, "text_config", None) or config
    stated = int(getattr(text, "max_position_embeddings", None) or 0)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    factor, made = rope.get("factor"), rope.get("original_max_position_embeddings")
    if not stated or not factor:
        return stated
    return max(stated, int(float(factor) * int(made or stated)))


def check_length(length: int, config: Any, visual: int = 0, where: str = "") -> None:
    """TooLong where a prompt of `length` tokens (`visual` of them of media) fills the model's positions."""
    most = positions_of(config)
    if most and length >= most:
        of_media = f" ({visual:,} of them of its media)" if visual else ""
        raise TooLong(
            f"{where + ': ' if where else ''}the prompt has {length:,} tokens{of_media}; the model has {most:,} "
            "positions for prompt and answer: shorten the question or give fewer media"
        )
