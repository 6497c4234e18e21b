"""The embedding table and the head, which may be one tensor: what a checkpoint says of it, and what it holds.

A config says so in two places (`tie_word_embeddings` of the whole model and of its language model), and releases of
transformers have gone by one or the other. So the tensors decide wherever both are there, and afterwards both
places say the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from videollava.model.formats.files import Weights

__all__ = ["HEAD", "NOT_TIED", "TABLE", "Tables", "is_said_tied", "open_tables", "say_tied", "settle_tables"]

log = logging.getLogger(__name__)

TABLE = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Tables:
    """Whether the two are one, and whether a file holds that one under the head's name alone."""

    tied: bool
    under_head: bool = False

    def arrange(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights in our names as we keep them: what is one tensor once, under the table's name."""
        kept = dict(tensors)
        if self.tied:
            head = kept.pop(HEAD, None)
            if self.under_head and head is not None:
                kept[TABLE] = head
        return kept


NOT_TIED = Tables(False)


def is_said_tied(config: Any) -> bool:
    """Whether either place of a Video-LLaVA's config says that the head is the embedding table."""
    text = getattr(config, "text_config", None)
    return any(bool(getattr(part, "tie_word_embeddings", False)) for part in (config, text))


def say_tied(config: Any, tied: bool) -> None:
    """Write it into both places."""
    config.tie_word_embeddings = tied
    config.text_config.tie_word_embeddings = tied


def open_tables(config: Any, weights: Weights, rename: Callable[[str], str]) -> Tables:
    """What `weights` hold, `rename` giving our names of theirs; `config` says the same afterwards."""
    names = {rename(name): name for name in weights.specs()}
    table, head = names.get(TABLE), names.get(HEAD)
    one = True
    if table and head and is_said_tied(config):
        one = is_same(weights.tensor(table), weights.tensor(head))
    return Tables(settle_tables(config, one), under_head=table is None)


def settle_tables(config: Any, one: bool) -> bool:
    """Whether the head is the table; `config` says so in both places afterwards.

    one: whether the tensors allow it. Two that differ are two whatever a config says; two equal ones are one only
    if it says so.
    """
    said = is_said_tied(config)
    if said and not one:
        log.warning(
            "tie_word_embeddings is true in this config, but the head is not the embedding table here: both are "
            "kept as they are"
        )
    say_tied(config, said and one)
    return said and one


def is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one in memory, or equal to the bit."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)
