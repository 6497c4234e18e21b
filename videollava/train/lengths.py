"""How long a split's samples are, and what training on each of them takes, from the index and shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from videollava.data.load.packing import Lengths
from videollava.data.prepare.tables import load_split
from videollava.data.text.bounds import bound_of, check_bound, check_positions
from videollava.errors import InputError
from videollava.model.positions import positions_of
from videollava.params import Params
from videollava.train.cost import Prices, encoder_flops, language_prices, palm_prices

__all__ = ["check_lengths", "learned_rows", "lengths_of", "prices_of"]


def prices_of(
    config: Any,
    language_learns: bool,
    with_encoders: bool = True,
    convention: Literal["computed", "palm"] = "computed",
) -> Prices:
    """FLOPs of the stage by shape: stage 1 spares the language model's weight gradients. Conventions: see cost.py."""
    language = palm_prices if convention == "palm" else language_prices
    token, square, target = language(config.text_config)
    image = encoder_flops(config.vision_config, 1) if with_encoders else 0.0
    video = encoder_flops(config.video_config, config.video_config.num_frames) if with_encoders else 0.0
    return Prices(token, square, target, image, video, backward=3 if language_learns else 2)


def learned_rows(prepared: Path, split: str, media: Sequence[str] = ()) -> NDArray[np.int64]:
    """Rows of a split's records that have media of these kinds alone, or none; without kinds all rows."""
    table = load_split(prepared, split)
    others = [kind for kind in ("image", "video") if media and kind not in media]
    left_out = np.zeros(table.num_rows, bool)
    for kind in others:
        left_out |= table[f"{kind}s"].to_numpy() > 0
    return np.flatnonzero(~left_out)


def lengths_of(prepared: Path, split: str, prices: Prices, rows: NDArray[np.int64] | None = None) -> Lengths:
    """Tokens, targets and cost of every record of a split, or of these rows, from the index alone."""
    table = load_split(prepared, split)
    if table.num_rows == 0 or (rows is not None and not len(rows)):
        media = " with the kinds of media that it learns from" if table.num_rows else ""
        raise InputError(
            f"{prepared}/splits/{split}.arrow: no records{media}; check sources and the quarantine list"
        )
    names = ("tokens", "target_tokens", "images", "videos")
    columns = [table[name].to_numpy().astype(np.int64) for name in names]
    if rows is not None:
        columns = [column[rows] for column in columns]
    return Lengths(columns[0], columns[1], prices.cost(*columns))


def check_lengths(prepared: Path, split: str, params: Params, text_config: Any) -> None:
    """InputError where the index was counted for other parameters, or has a sample with more tokens than the language
    model (of `text_config`) has positions.
    """
    table = load_split(prepared, split)
    check_bound(table, bound_of(params, split))
    longest = int(table["tokens"].to_numpy().max(initial=0))
    check_positions(longest, positions_of(text_config), split)
