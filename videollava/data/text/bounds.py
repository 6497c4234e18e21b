"""How long a sample may be, decided once: the index counts what training will use, and training checks that it did.

Text is cut at its end, as the original's data loader does with `model_max_length` (max_text_tokens) and its model with
`tokenizer_model_max_length` (max_tokens, visual tokens included); the language model's positions bound both. Of
max_text_tokens a picture takes one and a video one a frame: the original's DataCollatorForSupervisedDataset cuts ids
that hold as many placeholders. Media are never cut: a sample whose media or answers would go is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from videollava.errors import InputError

if TYPE_CHECKING:
    from videollava.params import Params

__all__ = ["KEY", "Bound", "TooLongError", "bound_of", "check_bound", "check_positions"]

KEY = b"bound"  # in the metadata of a split's table
STAGES = ("pretrain", "finetune")


class TooLongError(InputError):
    """A sample that no cut at its end would leave with its media and an answer."""


@dataclass(frozen=True)
class Bound:
    """Tokens that a sample of a stage may have: of text, and in all. image_tokens, video_tokens: of one medium.

    frames: what a video counts among the tokens of text; a picture counts one.
    """

    stage: str
    max_text_tokens: int
    max_tokens: int
    positions: int
    image_tokens: int
    video_tokens: int
    frames: int

    def text_limit(self, kinds: Sequence[str], where: str = "") -> tuple[int, str]:
        """Tokens of text that go with these media, and the parameter that bounds them.

        Raises InputError where the media leave no room.
        """
        videos = kinds.count("video")
        images = len(kinds) - videos
        marks = images + videos * self.frames
        visual = images * self.image_tokens + videos * self.video_tokens
        tokens, taken, name = min(
            (self.max_text_tokens - marks, marks, f"{self.stage}.max_text_tokens"),
            (self.max_tokens - visual, visual, f"{self.stage}.max_tokens"),
            (self.positions - visual, visual, "model.language.positions"),
            key=lambda bound: bound[0],
        )
        if tokens < 1:
            raise TooLongError(
                f"{where}{': ' if where else ''}its {len(kinds)} media take {taken} tokens and {name} is "
                f"{tokens + taken}: raise it, or give the record fewer media"
            )
        return tokens, name

    def to_json(self) -> str:
        """As it stands in the index."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def bound_of(params: Params, split: str) -> Bound | None:
    """The bound of a split by the stage that trains on it; None for a split that nothing is cut of."""
    if split not in STAGES:
        return None
    settings, model = getattr(params, split), params.model
    return Bound(
        split,
        settings.max_text_tokens,
        settings.max_tokens,
        model.language.positions,
        model.image_tokens,
        model.video_tokens,
        model.frames,
    )


def check_bound(table: Any, bound: Bound | None) -> None:
    """InputError where a split's table was made for another bound than training has: its counts would be wrong."""
    kept = (table.schema.metadata or {}).get(KEY)
    if kept is None or bound is None:
        return
    was, now = json.loads(kept), dataclasses.asdict(bound)
    changed = [f"{name} {was.get(name)}, now {now[name]}" for name in now if was.get(name) != now[name]]
    if changed:
        raise InputError(
            f"data/index counts the tokens of {bound.stage} for other parameters ({'; '.join(changed)}): "
            "run `videollava index` again"
        )


def check_positions(longest: int, positions: int, stage: str) -> None:
    """InputError where a sample is longer than the language model's positions (0: it has no bound)."""
    if 0 < positions < longest:
        raise InputError(
            f"{stage}: the longest sample has {longest} tokens and the language model {positions} positions: "
            f"set model.language.positions: {positions} in params.yaml and run `videollava index` again"
        )
