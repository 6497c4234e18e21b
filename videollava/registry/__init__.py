"""The model registry: versions by reference, the champion, its trail."""

from __future__ import annotations

from videollava.registry.evidence import comparison_page
from videollava.registry.promotion import (
    Move,
    PromotionConflict,
    champion,
    examine,
    move_champion,
    promote,
    rollback,
    trail,
)
from videollava.registry.registration import (
    note_evaluation,
    note_saved,
    prepare,
    read_metrics,
    register,
    registered,
)
from videollava.registry.store import Store
from videollava.registry.versions import (
    CHAMPION,
    PREVIOUS,
    Version,
    find_version,
    list_models,
    list_versions,
    open_store,
    resolve,
    version_manifest,
)

__all__ = [
    "CHAMPION",
    "PREVIOUS",
    "Move",
    "PromotionConflict",
    "Store",
    "Version",
    "champion",
    "comparison_page",
    "examine",
    "find_version",
    "list_models",
    "list_versions",
    "move_champion",
    "note_evaluation",
    "note_saved",
    "open_store",
    "prepare",
    "promote",
    "read_metrics",
    "register",
    "registered",
    "resolve",
    "rollback",
    "trail",
    "version_manifest",
]
