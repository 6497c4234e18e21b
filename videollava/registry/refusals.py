"""What a store refuses, said as a user's error: no traceback out of the registry."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from videollava.errors import InputError
from videollava.params import Params, Tracking
from videollava.tracking.store import tracking_uri
from videollava.tracking.troubles import explain, is_from_store

__all__ = ["answered", "is_missing", "refusal"]

P = ParamSpec("P")
R = TypeVar("R")


def answered(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, with whatever a store refuses as an InputError of one sentence."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except InputError:
            raise
        except Exception as error:
            if not is_from_store(error):
                raise
            raise InputError(refusal(error, _where(args))) from error

    return call


def refusal(error: BaseException, uri: str) -> str:
    """A store's refusal in one sentence."""
    trouble = explain(error)
    state = "does not answer" if trouble.passing else "refuses"
    return f"the model registry{f' at {uri}' if uri else ''} {state}: {trouble.text}"


def _where(args: Sequence[object]) -> str:
    """The store's address, of a call that begins with a workspace and its (tracking) parameters."""
    if len(args) < 2 or not isinstance(args[0], Path):
        return ""
    tracking = args[1].tracking if isinstance(args[1], Params) else args[1]
    return tracking_uri(args[0], tracking) if isinstance(tracking, Tracking) else ""


def is_missing(error: BaseException) -> bool:
    """Whether MLflow says that there is no such thing (an alias it does not know is an invalid value to it)."""
    code = getattr(error, "error_code", "")
    unknown_alias = code == "INVALID_PARAMETER_VALUE" and "alias" in str(error) and "not found" in str(error)
    return code == "RESOURCE_DOES_NOT_EXIST" or unknown_alias
