"""What a file is by its ending."""

from __future__ import annotations

from videollava.data.records.marks import MediumKind

__all__ = ["MEDIA_ENDINGS", "kind_of_file"]

ENDINGS: dict[MediumKind, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    "video": (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv"),
    "audio": (".wav", ".mp3", ".flac", ".ogg", ".m4a"),
}
MEDIA_ENDINGS = tuple(ending for endings in ENDINGS.values() for ending in endings)


def kind_of_file(name: str) -> MediumKind | None:
    """The kind that a file's ending says; None where that says nothing."""
    low = name.lower()
    return next((kind for kind, endings in ENDINGS.items() if low.endswith(endings)), None)
