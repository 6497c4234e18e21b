"""A question with its media as the model takes it, and whether it can be asked at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from videollava.data.records.marks import find_marks
from videollava.data.records.record import Turn
from videollava.data.text.prompts import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, Encoded, expand, marked, prompt
from videollava.errors import InputError
from videollava.evaluate.batches import Sample
from videollava.evaluate.positions import check_length

__all__ = ["narrow_prompt", "prompt_sample", "visual_tokens"]

MARK = re.compile("<(?:image|video)>")


def prompt_sample(
    model: Any,
    tokenizer: Any,
    question: str,
    images: Sequence[Tensor],
    videos: Sequence[Tensor],
    where: str = "",
) -> Sample:
    """A question with its media (pixels or features) as the generator takes it.

    InputError where the question is empty or does not fit its media; its subclass TooLong where the prompt, visual
    tokens counted, leaves no room for an answer in the model's positions.
    """
    config = model.config
    kinds = ["image"] * len(images) + ["video"] * len(videos)
    narrow = narrow_prompt(config, tokenizer, question, kinds, where)
    wide = expand(
        Encoded(narrow, narrow),
        config.image_tokens,
        config.video_tokens(),
        config.image_token_id,
        config.video_token_id,
    )
    return Sample(wide.input_ids, images, videos)


def narrow_prompt(
    config: Any, tokenizer: Any, question: str, kinds: Sequence[str], where: str = ""
) -> list[int]:
    """The prompt's ids with one placeholder, a negative number, for each medium. Errors as of `prompt_sample`."""
    if not MARK.sub("", question).strip():
        raise InputError(f"{where + ': ' if where else ''}the question is empty: ask something")
    placed: list[str] = [*find_marks(question)] if kinds else []  # without media marks are words
    if not placed:
        question = marked(question, kinds)
    elif sorted(placed) == sorted(kinds):
        kinds = placed
    ids = prompt([Turn("human", question)], kinds, tokenizer, where=where).input_ids
    wide = visual_tokens(config)
    visual = sum(wide[token] for token in ids if token < 0)
    check_length(sum(token >= 0 for token in ids) + visual, config, visual, where)
    return ids


def visual_tokens(config: Any) -> Mapping[int, int]:
    """How many visual tokens stand for each placeholder."""
    return {IMAGE_PLACEHOLDER: config.image_tokens, VIDEO_PLACEHOLDER: config.video_tokens()}
