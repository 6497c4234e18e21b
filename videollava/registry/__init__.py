"""The model registry: versions by reference, the champion, its trail."""

from __future__ import annotations

from videollava.registry.aliases import CHAMPION, PREVIOUS
from videollava.registry.encoders import resolve_encoders
from videollava.registry.evidence import comparison_page
from videollava.registry.judging import examine, note_decision
from videollava.registry.promotion import (
    Move,
    Outcome,
    PromotionConflict,
    Story,
    champion,
    move_champion,
    promote,
    result_of,
    rollback,
    tell,
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
from videollava.registry.trail import sentence
from videollava.registry.versions import (
    Version,
    find_version,
    list_models,
    list_versions,
    open_store,
    resolve,
    version_manifest,
)
from videollava.registry.whole.own_code import find_code

__all__ = [
    "CHAMPION",
    "PREVIOUS",
    "Move",
    "Outcome",
    "PromotionConflict",
    "Store",
    "Story",
    "Version",
    "champion",
    "comparison_page",
    "examine",
    "find_code",
    "find_version",
    "list_models",
    "list_versions",
    "move_champion",
    "note_decision",
    "note_evaluation",
    "note_saved",
    "open_store",
    "prepare",
    "promote",
    "read_metrics",
    "register",
    "registered",
    "resolve",
    "resolve_encoders",
    "result_of",
    "rollback",
    "sentence",
    "tell",
    "trail",
    "version_manifest",
]
