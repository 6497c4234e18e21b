"""The one error a user's mistake raises; the command line prints it without a traceback."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(ValueError):
    """Something given from outside is wrong: its text names file, record, field and remedy."""
