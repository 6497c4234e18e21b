"""The one error a user's mistake raises; the command line prints it without a traceback."""

from __future__ import annotations

from videollava.scrub import scrub

__all__ = ["InputError"]


class InputError(ValueError):
    """Something given from outside is wrong: its text names file, record, field and remedy.

    Credentials in it are hidden: an error is shown, logged and kept in many places.
    """

    def __init__(self, text: object = "") -> None:
        super().__init__(scrub(str(text)))
