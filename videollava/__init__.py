"""Video-LLaVA: one language model that understands images and videos, retrained by one pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videollava.embedding.encoders import Encoders, embed, load_encoders, similarity
    from videollava.serve.assistant import Assistant, load

__all__ = ["Assistant", "Encoders", "__version__", "embed", "load", "load_encoders", "similarity"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: only who loads a model waits for them.
    if name in ("Assistant", "load"):
        from videollava.serve import assistant

        return getattr(assistant, name)
    if name in ("Encoders", "embed", "load_encoders", "similarity"):
        from videollava.embedding import encoders

        return getattr(encoders, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
