"""How many tokens a language model has places for."""

from __future__ import annotations

from typing import Any

__all__ = ["positions_of"]


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
