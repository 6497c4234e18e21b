"""What a file is by its ending."""

from __future__ import annotations

from videollava.data.modalities import MODALITIES, MediumKind

__all__ = ["MEDIA_ENDINGS", "kind_of_file"]

MEDIA_ENDINGS = tuple(ending for row in MODALITIES.values() for ending in row.endings)
# The longer ones first: x.depth.png is no image.
_KINDS = sorted(
    ((ending, kind) for kind, row in MODALITIES.items() for ending in row.endings),
    key=lambda found: -len(found[0]),
)


def kind_of_file(name: str) -> MediumKind | None:
    """The kind that a file's ending says; None where that says nothing."""
    low = name.lower()
    return next((kind for ending, kind in _KINDS if low.endswith(ending)), None)
